/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What the programs know: constants set before loading, the peers, and the counters. */
#pragma once

/* All in host byte order. programs.rs sets them by name. */
const volatile __u32 NETWORK;          /* first address of the overlay */
const volatile __u32 SLOT_SHIFT;       /* (address - NETWORK) >> SLOT_SHIFT is the slot */
const volatile __u32 NUM_SLOTS;
const volatile __u32 OWN_SUBNET;       /* our lease */
const volatile __u32 OWN_MASK;
const volatile __u32 UNDERLAY_ADDR;    /* the sockets' address */
const volatile __u32 UNDERLAY_IFINDEX;
const volatile __u32 OVERLAY_IFINDEX;
const volatile __u32 OVERLAY_MTU;
const volatile __u32 PORT;             /* where we and all peers listen */
const volatile __u32 NUM_TRAFFIC;      /* counters of peers that each processor has */
const volatile __u16 SOURCE_PORTS[8];  /* further ports of our own sockets */
const volatile __u32 LINK_LEN;         /* bytes before the IP header at egress: 0 on a TUN */
const volatile __u32 GPE_PORT;         /* where the vxlan device listens; 0 without one */
const volatile __u32 GPE_VNI;          /* known to nobody else */
const volatile __u32 GPE_MERGES;       /* whether it gets single frames of TCP, for GRO to merge */
const volatile __u32 BULK_TCP;         /* whether all of TCP is carried; else that of sparse flows is */
const volatile __u16 UNDERLAY_MAC[3];  /* in network order */
const volatile __u32 XDP_MARK;         /* known to nobody else; 0 without XDP */

/* Slot -> the peer's address in bits 63..32, the number of its counters in 31..16, flags below; 0
 * without a peer. One load sees one peer: user space replaces the word as a whole. */
#define PEER_PRESENT 1
#define PEER_ANY_SOURCE_PORT 2
#define PEER_KERNEL_BULK_TCP 4  /* its kernel takes all of TCP */
#define PEER_KERNEL_SPARSE 8    /* and this: ICMP, and TCP and UDP with few packets under way */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} PEERS SEC(".maps");

/* Why a packet is left to the workers. counters.rs has the same order. */
enum reason {
	HEADER,          /* options, a wrong length or checksum */
	PROTOCOL,        /* neither TCP nor ICMP nor UDP */
	FRAGMENT,
	TTL,             /* would end here */
	NO_PEER,         /* nobody has the destination, or the sender is not who has the source */
	WORKER_PEER,     /* the peer's kernel does not take such packets */
	TOO_LONG,        /* for the overlay, or for the path */
	NO_ROUTE,        /* the host's routes lead elsewhere, or nowhere */
	NO_NEIGHBOUR,    /* the next hop's link address is not known yet */
	OTHER_SUBNET,    /* not for our lease, or at egress not from it */
	OUTER_CHECKSUM,  /* only the socket verifies it */
	BURST,           /* of a flow that is not sparse, which the workers pack */
	NO_METADATA,     /* the driver has no room for XDP's mark */
	NUM_REASONS,
};

/* Indexes of the counters of one direction. */
enum {
	PACKETS,
	BYTES,
	DROPPED,
	PASSED,          /* and NUM_REASONS - 1 more */
	NUM_OF_DIRECTION = PASSED + NUM_REASONS,
};

enum {
	EGRESS = 0,
	INGRESS = NUM_OF_DIRECTION,
	XDP = 2 * NUM_OF_DIRECTION,     /* what INGRESS counts again */
	GPE_IN = 3 * NUM_OF_DIRECTION,  /* packets and superpackets given to the vxlan device */
	GPE_OUT,                        /* those that came out of it */
	FRAMES,                         /* long packets of TCP that came by themselves */
	MERGED,                         /* superpackets that GRO made behind XDP or the vxlan device */
	NUM_COUNTERS,
};

/* Each is looked up by itself: without CAP_PERFMON the verifier refuses an offset into a value that
 * depends on the path, and the compiler makes one of several places that count. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, NUM_COUNTERS);
} COUNTERS SEC(".maps");

/* What was carried to and from each peer. User space reads it as memory, so it is no per-CPU array:
 * all peers' counters of processor 0, then of processor 1 and so on. */
struct traffic {
	__u64 to_packets;
	__u64 to_bytes;
	__u64 from_packets;
	__u64 from_bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct traffic);
	__uint(max_entries, 1);
} TRAFFIC SEC(".maps");

/* What user space may change while the programs run. */
enum {
	BY_GPE,               /* whether the vxlan device may be used */
	OUTER_BY_XDP,         /* whether XDP removes outer headers: tc is there for what it marks */
	NUM_SWITCHES,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, NUM_SWITCHES);
} SWITCHES SEC(".maps");

/* Packets as they look on the wire, whatever the skb holds. */
struct extent {
	__u32 num;      /* packets */
	__u32 bytes;    /* of all of them, each with its own headers */
	__u32 longest;  /* bytes of the longest */
};

/* What helpers and measure() write. It is not on the stack: below Linux 6.7 the verifier, without
 * CAP_PERFMON, refuses to write 4 bytes of stack where something is already. For the same reason
 * some functions have stacks of their own: what is inlined makes the compiler use a place
 * twice. One packet at a time uses this, as programs here run with softirqs off. */
struct scratch {
	struct bpf_fib_lookup fib;
	struct bpf_redir_neigh hop;
	struct bpf_tunnel_key tunnel;
	struct iphdr ip;
	struct extent extent;
	__u8 data_offset;
	__u8 tcp_flags;
	__be16 ports[2];
	__u32 flow;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct scratch);
	__uint(max_entries, 1);
} SCRATCH SEC(".maps");

/* A key on the stack: 8 bytes for the reason above, of which maps read the first 4. */
#define KEY(index) (__u64){ (__u32)(index) }

static __always_inline struct scratch *scratch(void)
{
	return bpf_map_lookup_elem(&SCRATCH, &KEY(0));
}

static __always_inline bool is_on(__u32 number)
{
	__u64 *on = bpf_map_lookup_elem(&SWITCHES, &KEY(number));

	return on && *on;
}

static __always_inline void count(__u32 counter, __u64 num)
{
	__u64 *sum = bpf_map_lookup_elem(&COUNTERS, &KEY(counter));

	if (sum)
		*sum += num;
}

/* Leaves the packet, unchanged, to what comes after us. */
static __always_inline int pass(__u32 direction, enum reason reason)
{
	count(direction + PASSED + reason, 1);
	return TC_ACT_UNSPEC;
}

static __always_inline int drop(__u32 direction)
{
	count(direction + DROPPED, 1);
	return TC_ACT_SHOT;
}

/* The slot of an address, NUM_SLOTS or more if it has none. */
static __always_inline __u32 slot_of(__be32 addr)
{
	return (bpf_ntohl(addr) - NETWORK) >> SLOT_SHIFT;
}

static __always_inline __u64 peer_at(__u32 slot)
{
	__u64 *word = slot < NUM_SLOTS ? bpf_map_lookup_elem(&PEERS, &KEY(slot)) : NULL;

	return word ? *(volatile __u64 *)word : 0;
}

static __always_inline __u32 peer_addr(__u64 peer)
{
	return peer >> 32;
}

static __always_inline struct traffic *traffic_of(__u64 peer)
{
	__u32 first = bpf_get_smp_processor_id() * NUM_TRAFFIC;

	return bpf_map_lookup_elem(&TRAFFIC, &KEY(first + (__u16)(peer >> 16)));
}
