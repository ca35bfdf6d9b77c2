/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Overlay device -> peer: at the egress of the TUN, before its queues. */
#pragma once

/* The outer length is 16 bits, and the receiver may add 8 bytes more: see ingress.h. */
#define LONGEST_INNER (0xffff - OUTER_LEN - sizeof(struct gpe_header))

/* By which way the host sends to a peer. The lookup knows a path's MTU as well, which
 * bpf_redirect_neigh() does not ask for. */
static __always_inline long route(struct __sk_buff *skb, __u64 peer, __u32 len,
				  struct bpf_fib_lookup *fib)
{
	__builtin_memset(fib, 0, sizeof(*fib));
	fib->family = AF_INET;
	fib->l4_protocol = IPPROTO_UDP;
	fib->tot_len = len;
	fib->ifindex = UNDERLAY_IFINDEX;
	fib->ipv4_src = bpf_htonl(UNDERLAY_ADDR);
	fib->ipv4_dst = bpf_htonl(peer_addr(peer));
	return bpf_fib_lookup(skb, fib, sizeof(*fib), BPF_FIB_LOOKUP_OUTPUT);
}

/* Flows have different ports if the peer takes that, all of them of sockets of ours: an ICMP error
 * that quotes another port is not believed. */
static __always_inline __u16 source_port(__u64 peer, __u32 hash)
{
	__u16 port = SOURCE_PORTS[hash & 7];

	return peer & PEER_ANY_SOURCE_PORT && port ? port : PORT;
}

/* What a peer's word says if its kernel takes this. */
static __always_inline __u64 kernel_flag(__u8 protocol)
{
	return protocol == IPPROTO_TCP && BULK_TCP ? PEER_KERNEL_BULK_TCP : PEER_KERNEL_SPARSE;
}

SEC("classifier")
int fast_egress(struct __sk_buff *skb)
{
	const __u64 grow = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
			   BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	struct bpf_redir_neigh *hop;
	struct bpf_fib_lookup *fib;
	struct scratch *mem;
	struct traffic *traffic;
	struct extent *extent;
	struct iphdr *header, *ip, *outer;
	struct udphdr *udp;
	struct ethhdr *eth;
	__u32 len, port;
	__u64 peer;
	long way;

	if (skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	mem = scratch();
	if (!mem)
		return TC_ACT_UNSPEC;
	header = &mem->ip;
	fib = &mem->fib;
	hop = &mem->hop;
	extent = &mem->extent;
	/* A copy: without CAP_PERFMON packet pointers take no offset that is not in the code. */
	if (bpf_skb_load_bytes(skb, LINK_LEN, header, sizeof(*header)))
		return pass(EGRESS, HEADER);
	len = skb->len - LINK_LEN;
	mem->flow = NO_FLOW;
	if (header->version == 4 && is_by_flow(header->protocol) &&
	    !(header->frag_off & bpf_htons(FRAGMENT_OFFSET))) {
		if (!find_flow(skb, mem, LINK_LEN + header->ihl * 4, header->saddr, header->daddr))
			return pass(EGRESS, HEADER);
	}
	if (*(__u8 *)header != 0x45 || bpf_ntohs(header->tot_len) != len ||
	    header_sum(header) != 0xffff)
		return pass_sent(mem, HEADER);
	if (!is_carried(header->protocol))
		return pass(EGRESS, PROTOCOL);
	if (header->frag_off & bpf_htons(FRAGMENT_BITS))
		return pass_sent(mem, FRAGMENT);
	if (header->ttl <= 1)
		return pass_sent(mem, TTL);
	peer = peer_at(slot_of(header->daddr));
	if (!(peer & PEER_PRESENT))
		return pass(EGRESS, NO_PEER);
	if (!(peer & kernel_flag(header->protocol)))
		return pass_sent(mem, WORKER_PEER);
	/* The peer's kernel takes from us what our lease has, and leaves all else to a socket, to which
	 * a superpacket, or a packet whose checksum the sender left to the network card, is of no use. */
	if (!is_own(header->saddr))
		return pass_sent(mem, OTHER_SUBNET);
	if (header->protocol == IPPROTO_UDP && skb->gso_size != 0)
		return pass_sent(mem, BURST);
	if (!measure(skb, mem, LINK_LEN, header->protocol, len))
		return pass_sent(mem, HEADER);
	if (mem->flow != NO_FLOW && !is_sparse(mem->flow, extent->num))
		return pass_sent(mem, BURST);
	if (extent->longest > OVERLAY_MTU || len > LONGEST_INNER)
		return pass_sent(mem, TOO_LONG);
	way = route(skb, peer, extent->longest + OUTER_LEN, fib);
	if (way == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return pass_sent(mem, TOO_LONG);
	/* What waits for an answer to ARP goes on by the route that the skb has: that of the inner
	 * packet. */
	if (way == BPF_FIB_LKUP_RET_NO_NEIGH)
		return pass_sent(mem, NO_NEIGHBOUR);
	if (way != BPF_FIB_LKUP_RET_SUCCESS || fib->ifindex != UNDERLAY_IFINDEX ||
	    fib->family != AF_INET)
		return pass_sent(mem, NO_ROUTE);
	port = source_port(peer, bpf_get_hash_recalc(skb));

	/* Without FIXED_GSO segments would shrink by the outer headers. */
	if (bpf_skb_adjust_room(skb, OUTER_LEN, BPF_ADJ_ROOM_MAC, grow))
		return pass_sent(mem, HEADER);
	if (LINK_LEN == 0 && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return drop(EGRESS);
	eth = (void *)(long)skb->data;
	outer = (void *)(eth + 1);
	udp = (void *)(outer + 1);
	ip = (void *)(udp + 1);
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return drop(EGRESS);
	decrement_ttl(ip);
	/* bpf_redirect_neigh() takes the link header away again. */
	__builtin_memset(eth, 0, sizeof(*eth));
	eth->h_proto = bpf_htons(ETH_P_IP);
	__builtin_memset(outer, 0, sizeof(*outer));
	outer->version = 4;
	outer->ihl = 5;
	outer->tot_len = bpf_htons(len + OUTER_LEN);
	outer->frag_off = bpf_htons(DONT_FRAGMENT);
	outer->ttl = 64;
	outer->protocol = IPPROTO_UDP;
	outer->saddr = bpf_htonl(UNDERLAY_ADDR);
	outer->daddr = bpf_htonl(peer_addr(peer));
	outer->check = ~header_sum(outer);
	udp->source = bpf_htons(port);
	udp->dest = bpf_htons(PORT);
	udp->len = bpf_htons(len + UDP_LEN);
	/* The inner checksums may be missing as yet, so there is none to give. */
	udp->check = 0;
	/* It may have chosen the inner packet's route, and has no say in the outer one's. */
	skb->mark = 0;

	count(EGRESS + PACKETS, extent->num);
	count(EGRESS + BYTES, extent->bytes);
	traffic = traffic_of(peer);
	if (traffic) {
		traffic->to_packets += extent->num;
		traffic->to_bytes += extent->bytes;
	}
	__builtin_memset(hop, 0, sizeof(*hop));
	hop->nh_family = AF_INET;
	hop->ipv4_nh = fib->ipv4_dst;
	return bpf_redirect_neigh(UNDERLAY_IFINDEX, hop, sizeof(*hop), 0);
}
