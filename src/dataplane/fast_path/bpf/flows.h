/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Which flows of UDP take the short cut, and of TCP where single frames arrive: those of which few
 * packets are under way.
 *
 * The workers pack the packets of a burst, which makes them faster than the kernel; a packet that
 * somebody waits for is faster without them. A flow leaves the short cut at any packet, as what went
 * that way is ahead of what the workers send. It comes back when it was silent for so long that the
 * workers have sent all that they had of it. */
#pragma once

#define MAX_UNANSWERED 8       /* packets of a flow since the last one of the other direction */
#define WINDOW 20000000ULL     /* ns; two ticks of the coarsest clock */
#define SILENCE 250000000ULL   /* ns */

/* Set as those of tables.h. */
const volatile __u32 MAX_IN_WINDOW;  /* packets of a flow, answered or not */
const volatile __u64 FLOWS_FROM;     /* ns; until then the workers may have packets of any flow */

/* Both directions of what two sockets say to each other; others may have the same entry, and are
 * then one flow with it. */
struct flow {
	__u64 last;        /* when we sent the last packet, ns */
	__u64 window;      /* when the window began, ns */
	__u32 in_window;   /* packets that we sent since */
	__u32 unanswered;  /* packets that we sent and that nothing came back for */
	__u32 is_burst;    /* the workers have it */
	__u32 reserved;
};

#define FLOW_BITS 13
#define NO_FLOW 0xffffffff  /* of a packet that needs none, or shows no ports */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(max_entries, 1 << FLOW_BITS);
} FLOWS SEC(".maps");

/* Whether the kernel carries a packet only if its flow is sparse. */
static __always_inline bool is_by_flow(__u8 protocol)
{
	return protocol == IPPROTO_UDP || (protocol == IPPROTO_TCP && !BULK_TCP);
}

/* Finds the flow of the packet with these addresses whose ports are at `offset`: the same one in
 * both directions. */
static __noinline bool find_flow(struct __sk_buff *skb, struct scratch *mem, __u32 offset,
				 __be32 src, __be32 dst)
{
	__u32 hash;

	if (bpf_skb_load_bytes(skb, offset, mem->ports, sizeof(mem->ports)))
		return false;
	hash = (src ^ dst) * 0x9e3779b1 ^ (__u32)(mem->ports[0] ^ mem->ports[1]) * 0x85ebca77;
	hash = (hash ^ hash >> 15) * 0xc2b2ae3d;
	mem->flow = hash >> (32 - FLOW_BITS);
	return true;
}

/* A number is kept, and looked up at each use: without CAP_PERFMON the verifier wants the place on
 * the stack of a pointer for that pointer alone. */
static __always_inline struct flow *flow_at(__u32 number)
{
	return bpf_map_lookup_elem(&FLOWS, &KEY(number));
}

/* Counts packets that we send. Returns whether the flow stays in the kernel. */
static __always_inline bool is_sparse(__u32 number, __u32 num)
{
	/* The time of the last tick: reading it costs no more than a variable. */
	__u64 now = bpf_ktime_get_coarse_ns(), since;
	struct flow *flow = flow_at(number);
	bool is_first;

	if (!flow)
		return false;
	is_first = flow->last == 0;
	/* Another processor may have had a later tick. */
	since = now > flow->last ? now - flow->last : 0;
	if (since != 0)
		flow->last = now;
	if (since > SILENCE)
		flow->is_burst = 0;
	if (since > WINDOW)
		flow->unanswered = 0;
	if (now > flow->window && now - flow->window > WINDOW) {
		flow->window = now;
		flow->in_window = 0;
	}
	flow->in_window += num;
	flow->unanswered += num;
	if (flow->unanswered > MAX_UNANSWERED || flow->in_window > MAX_IN_WINDOW ||
	    (is_first && now < FLOWS_FROM))
		flow->is_burst = 1;
	return !flow->is_burst;
}

/* What we sent of the flow has been answered, by whichever way the answer goes on. */
static __always_inline void answer(__u32 number)
{
	struct flow *flow = flow_at(number);

	if (flow && flow->unanswered != 0)
		flow->unanswered = 0;
}

/* Leaves a packet to the workers, and if it is of a flow, what follows it closely as well. */
static __always_inline int pass_sent(struct scratch *mem, enum reason reason)
{
	struct flow *flow = mem->flow != NO_FLOW ? flow_at(mem->flow) : NULL;

	if (flow) {
		flow->is_burst = 1;
		flow->last = bpf_ktime_get_coarse_ns();
	}
	return pass(EGRESS, reason);
}
