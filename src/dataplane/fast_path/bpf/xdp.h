/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Peer -> the host's own stack: at the driver of the underlay, before its GRO.
 *
 * Where the wire carries single frames, tc is too late: GRO merges nothing that is inside of a
 * datagram without a checksum. So the outer headers go here, GRO merges the inner segments, and
 * fast_ingress sends the superpacket, which it knows by the mark, to the overlay device. */
#pragma once

static __always_inline int leave(enum reason reason)
{
	count(XDP + PASSED + reason, 1);
	return XDP_PASS;
}

/* A network card in promiscuous mode hands frames over that are for others. */
static __always_inline bool is_to_us(const struct ethhdr *eth)
{
	const __u16 *dest = (void *)eth->h_dest;

	return dest[0] == UNDERLAY_MAC[0] && dest[1] == UNDERLAY_MAC[1] &&
	       dest[2] == UNDERLAY_MAC[2];
}

/* Removes the outer headers of a frame of `frame_len` bytes. */
static __always_inline int remove_outer(struct xdp_md *ctx, __u32 frame_len)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct iphdr *outer = (void *)(eth + 1);
	struct udphdr *udp = (void *)(outer + 1);
	struct iphdr *ip = (void *)(udp + 1);
	enum reason reason;
	__u32 *mark, len;

	if ((void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || !is_to_us(eth) || !is_for_us(outer) ||
	    udp->dest != bpf_htons(PORT) || !is_on(OUTER_BY_XDP))
		return XDP_PASS;
	len = frame_len - ETH_HLEN - OUTER_LEN;
	reason = refusal(outer, len);
	if (reason != NUM_REASONS)
		return leave(reason);
	if (len > OVERLAY_MTU)
		return leave(TOO_LONG);
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*mark)))
		return leave(NO_METADATA);

	mark = (void *)(long)ctx->data_meta;
	eth = (void *)(long)ctx->data;
	ip = (void *)eth + ETH_HLEN + OUTER_LEN;
	if ((void *)(mark + 1) > (void *)eth || (void *)(ip + 1) > (void *)(long)ctx->data_end)
		goto dropped;
	*mark = XDP_MARK;
	decrement_ttl(ip);
	__builtin_memcpy((void *)eth + OUTER_LEN, eth, sizeof(*eth));
	/* Takes the mark along. */
	if (bpf_xdp_adjust_head(ctx, OUTER_LEN))
		goto dropped;
	count(XDP + PACKETS, 1);
	count(XDP + BYTES, len);
	return XDP_PASS;
dropped:
	count(XDP + DROPPED, 1);
	return XDP_DROP;
}

SEC("xdp")
int fast_xdp(struct xdp_md *ctx)
{
	return remove_outer(ctx, ctx->data_end - ctx->data);
}

/* From Linux 5.18 on, for frames that are longer than a page. */
SEC("xdp.frags")
int fast_xdp_frags(struct xdp_md *ctx)
{
	return remove_outer(ctx, bpf_xdp_get_buff_len(ctx));
}
