/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What XDP and tc ask of a datagram from a peer. */
#pragma once

static __always_inline bool is_own(__be32 addr)
{
	return (bpf_ntohl(addr) & OWN_MASK) == OWN_SUBNET;
}

/* Whether a peer with this word is the one at `outer_src`. Our own slot holds nobody. */
static __always_inline bool is_at(__u64 peer, __u32 outer_src)
{
	return peer & PEER_PRESENT && peer_addr(peer) == outer_src;
}

/* Whether the header is that of a datagram to this host, in one piece. */
static __always_inline bool is_for_us(const struct iphdr *outer)
{
	return outer->protocol == IPPROTO_UDP && outer->daddr == bpf_htonl(UNDERLAY_ADDR) &&
	       *(__u8 *)outer == 0x45 && !(outer->frag_off & bpf_htons(FRAGMENT_BITS));
}

/* Why a datagram to the overlay's port is left to the socket, or NUM_REASONS. `len` bytes follow
 * its headers: those of an IPv4 header are there. */
static __noinline enum reason refusal(const struct iphdr *outer, __u32 len)
{
	const struct udphdr *udp = (void *)(outer + 1);
	const struct iphdr *ip = (void *)(udp + 1);

	if (udp->check != 0)
		return OUTER_CHECKSUM;
	/* Datagrams that were merged, or are yet to be cut, have a first packet that is shorter. */
	if (bpf_ntohs(outer->tot_len) != len + OUTER_LEN || bpf_ntohs(udp->len) != len + UDP_LEN ||
	    bpf_ntohs(ip->tot_len) != len || *(__u8 *)ip != 0x45 ||
	    header_sum(outer) != 0xffff || header_sum(ip) != 0xffff)
		return HEADER;
	if (!is_carried(ip->protocol))
		return PROTOCOL;
	if (ip->frag_off & bpf_htons(FRAGMENT_BITS))
		return FRAGMENT;
	if (!is_own(ip->daddr))
		return OTHER_SUBNET;
	if (is_own(ip->saddr) || !is_at(peer_at(slot_of(ip->saddr)), bpf_ntohl(outer->saddr)))
		return NO_PEER;
	if (ip->ttl <= 1)
		return TTL;
	return NUM_REASONS;
}
