/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Peer -> overlay device: at the ingress of the underlay, before the host's own stack.
 *
 * Linux up to 6.18 keeps the mark of a tunnel on a superpacket whose outer headers a program took
 * away; a bridge behind the overlay device then cuts it in software. Where the wire carries
 * superpackets, as veths do, they are made VXLAN-GPE for a device of the kernel's on this host,
 * whose decapsulation leaves no mark. That device has GRO as well, which merges what came in
 * single frames. */
#pragma once

/* From that length on a packet is part of a bulk flow, which would have come in superpackets. */
#define LONG_FRAME 1000

#define TCP_FLAGS 13   /* where they are in the header, RFC 9293 section 3.1 */
#define TCP_PSH 0x08

#define VLAN_ID 0x0fff  /* of a tag, IEEE 802.1Q */

static __always_inline void count_from(__u64 peer, const struct extent *extent)
{
	struct traffic *traffic = traffic_of(peer);

	count(INGRESS + PACKETS, extent->num);
	count(INGRESS + BYTES, extent->bytes);
	if (traffic) {
		traffic->from_packets += extent->num;
		traffic->from_bytes += extent->bytes;
	}
}

/* Puts a VXLAN-GPE header behind the UDP header; the kernel's device does the rest. */
static __always_inline int through_gpe(struct __sk_buff *skb)
{
	struct gpe_header *gpe;
	struct udphdr *udp;
	struct iphdr *outer;
	__u16 len;

	/* Makes room between the IP and the UDP header. */
	if (bpf_skb_adjust_room(skb, sizeof(*gpe), BPF_ADJ_ROOM_NET, BPF_F_ADJ_ROOM_FIXED_GSO))
		return drop(INGRESS);
	outer = (void *)(long)skb->data + ETH_HLEN;
	udp = (void *)(outer + 1);
	gpe = (void *)(udp + 1);
	if ((void *)((struct iphdr *)(gpe + 1) + 1) > (void *)(long)skb->data_end)
		return drop(INGRESS);
	decrement_ttl((void *)(gpe + 1));
	len = bpf_ntohs(outer->tot_len) + sizeof(*gpe);
	outer->tot_len = bpf_htons(len);
	outer->check = 0;
	outer->check = ~header_sum(outer);
	/* What was the UDP header is the GPE header from here on. */
	udp->source = bpf_htons(PORT);
	udp->dest = bpf_htons(GPE_PORT);
	udp->len = bpf_htons(len - IP_LEN);
	udp->check = 0;
	gpe->flags = GPE_FLAGS;
	gpe->reserved = 0;
	gpe->next_protocol = GPE_IPV4;
	gpe->vni = bpf_htonl(GPE_VNI << 8);
	count(GPE_IN, 1);
	return TC_ACT_UNSPEC;
}

/* Whether XDP removed the outer headers. It alone writes there, and what is on the wire does not
 * get there. */
static __always_inline bool is_marked(struct __sk_buff *skb)
{
	__u32 *mark = (void *)(long)skb->data_meta;

	return XDP_MARK != 0 && (void *)(mark + 1) <= (void *)(long)skb->data && *mark == XDP_MARK;
}

/* Whether a segment is the last of what its sender had: there was nothing to merge it with. */
static __noinline bool is_pushed(struct __sk_buff *skb, struct scratch *mem, __u32 offset)
{
	return bpf_skb_load_bytes(skb, offset + IP_LEN + TCP_FLAGS, &mem->tcp_flags, 1) ||
	       mem->tcp_flags & TCP_PSH;
}

/* Counts a long segment that came by itself, though its peer's kernel sends superpackets. */
static __always_inline void count_frame(struct __sk_buff *skb, struct scratch *mem, __u32 offset,
					__u8 protocol, __u32 len, __u64 peer)
{
	if (protocol == IPPROTO_TCP && len >= LONG_FRAME && peer & PEER_KERNEL_BULK_TCP &&
	    !is_pushed(skb, mem, offset))
		count(FRAMES, 1);
}

/* What GRO made of a packet of `len` bytes whose outer headers were removed before it. */
static __always_inline void count_merging(struct __sk_buff *skb, struct scratch *mem, __u32 offset,
					  __u8 protocol, __u32 len, __u64 peer)
{
	if (skb->gso_size != 0)
		count(MERGED, 1);
	else
		count_frame(skb, mem, offset, protocol, len, peer);
}

/* Whether the vxlan device takes it: all of TCP where it merges, so that no flow has two ways. */
static __always_inline bool is_for_gpe(const struct __sk_buff *skb, __u8 protocol, __u32 len)
{
	bool is_fit = skb->gso_size != 0 || (GPE_MERGES && protocol == IPPROTO_TCP);

	return is_fit && len <= LONGEST_INNER && is_on(BY_GPE);
}

/* An inner packet, or a superpacket of GRO's. XDP has checked it. */
static __always_inline int from_xdp(struct __sk_buff *skb)
{
	struct scratch *mem = scratch();
	struct iphdr *ip;
	__u64 peer;
	__u32 len;

	/* XDP does not see a tag that the network card took off. One with a priority alone goes; a
	 * packet of another network ends here, as it would at a socket on this device. */
	if (!mem || (skb->vlan_present &&
		     ((skb->vlan_tci & VLAN_ID) != 0 || bpf_skb_vlan_pop(skb))) ||
	    bpf_skb_pull_data(skb, ETH_HLEN + IP_LEN))
		return drop(INGRESS);
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return drop(INGRESS);
	len = skb->len - ETH_HLEN;
	if (is_by_flow(ip->protocol) &&
	    find_flow(skb, mem, ETH_HLEN + IP_LEN, ip->saddr, ip->daddr))
		answer(mem->flow);
	/* A superpacket of UDP, which GRO makes if somebody turned that on, counts as one packet. */
	measure(skb, mem, ETH_HLEN, ip->protocol, len);
	peer = peer_at(slot_of(ip->saddr));
	count_merging(skb, mem, ETH_HLEN, ip->protocol, len, peer);
	count_from(peer, &mem->extent);
	return bpf_redirect(OVERLAY_IFINDEX, BPF_F_INGRESS);
}

SEC("classifier")
int fast_ingress(struct __sk_buff *skb)
{
	struct iphdr *ip, *outer;
	struct scratch *mem;
	struct udphdr *udp;
	enum reason reason;
	__u64 peer;
	__u32 len;

	if (is_marked(skb))
		return from_xdp(skb);
	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->vlan_present ||
	    skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	outer = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(outer + 1) > (void *)(long)skb->data_end) {
		if (bpf_skb_pull_data(skb, ETH_HLEN + IP_LEN))
			return TC_ACT_UNSPEC;
		outer = (void *)(long)skb->data + ETH_HLEN;
		if ((void *)(outer + 1) > (void *)(long)skb->data_end)
			return TC_ACT_UNSPEC;
	}
	if (!is_for_us(outer) || bpf_skb_pull_data(skb, ETH_HLEN + OUTER_LEN + IP_LEN))
		return TC_ACT_UNSPEC;
	outer = (void *)(long)skb->data + ETH_HLEN;
	udp = (void *)(outer + 1);
	ip = (void *)(udp + 1);
	if ((void *)(ip + 1) > (void *)(long)skb->data_end || udp->dest != bpf_htons(PORT))
		return TC_ACT_UNSPEC;
	mem = scratch();
	if (!mem)
		return TC_ACT_UNSPEC;
	len = skb->len - ETH_HLEN - OUTER_LEN;
	if (is_by_flow(ip->protocol) &&
	    find_flow(skb, mem, ETH_HLEN + OUTER_LEN + IP_LEN, ip->saddr, ip->daddr))
		answer(mem->flow);
	reason = refusal(outer, len);
	if (reason != NUM_REASONS)
		return pass(INGRESS, reason);
	if (!measure(skb, mem, ETH_HLEN + OUTER_LEN, ip->protocol, len))
		return pass(INGRESS, HEADER);
	if (mem->extent.longest > OVERLAY_MTU)
		return pass(INGRESS, TOO_LONG);

	if (is_for_gpe(skb, ip->protocol, len))
		return through_gpe(skb);
	/* The network card may have verified the outer checksum, which says nothing of the inner:
	 * NO_CSUM_RESET would say that it did. */
	if (bpf_skb_adjust_room(skb, -(__s32)OUTER_LEN, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_FIXED_GSO))
		return pass(INGRESS, HEADER);
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return drop(INGRESS);
	decrement_ttl(ip);
	peer = peer_at(slot_of(ip->saddr));
	if (mem->extent.num == 1)
		count_frame(skb, mem, ETH_HLEN, ip->protocol, len, peer);
	count_from(peer, &mem->extent);
	return bpf_redirect(OVERLAY_IFINDEX, BPF_F_INGRESS);
}

/* What leaves the vxlan device: packets of ours, and whatever somebody sent to its port. */
SEC("classifier")
int gpe_ingress(struct __sk_buff *skb)
{
	struct bpf_tunnel_key *key;
	struct scratch *mem;
	struct iphdr *ip;
	__u64 peer;

	mem = scratch();
	if (!mem)
		return drop(INGRESS);
	key = &mem->tunnel;
	if (bpf_skb_get_tunnel_key(skb, key, sizeof(*key), 0) || key->tunnel_id != GPE_VNI ||
	    skb->protocol != bpf_htons(ETH_P_IP) || bpf_skb_pull_data(skb, IP_LEN))
		return drop(INGRESS);
	ip = (void *)(long)skb->data;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return drop(INGRESS);
	peer = peer_at(slot_of(ip->saddr));
	if (*(__u8 *)ip != 0x45 || !is_own(ip->daddr) || is_own(ip->saddr) ||
	    !is_at(peer, key->remote_ipv4) ||
	    !measure(skb, mem, 0, ip->protocol, skb->len))
		return drop(INGRESS);
	count(GPE_OUT, 1);
	if (GPE_MERGES)
		count_merging(skb, mem, 0, ip->protocol, skb->len, peer);
	count_from(peer, &mem->extent);
	return bpf_redirect(OVERLAY_IFINDEX, BPF_F_INGRESS);
}
