/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* What both directions ask of an inner packet. */
#pragma once

#define FRAGMENT_BITS 0x3fff  /* MF and offset, RFC 791 section 3.1 */
#define FRAGMENT_OFFSET 0x1fff
#define DONT_FRAGMENT 0x4000

#define UDP_LEN sizeof(struct udphdr)
#define IP_LEN sizeof(struct iphdr)
#define OUTER_LEN (IP_LEN + UDP_LEN)

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The sum of an IPv4 header without options; 0xffff if its checksum is right. */
static __always_inline __u16 header_sum(const struct iphdr *ip)
{
	const __u16 *word = (const __u16 *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	return fold(sum);
}

/* Takes 1 from the TTL, as RFC 1141 does and the workers do. */
static __always_inline void decrement_ttl(struct iphdr *ip)
{
	__u32 sum = bpf_ntohs(ip->check) + 0x0100;

	ip->check = bpf_htons((sum & 0xffff) + (sum >> 16));
	ip->ttl--;
}

static __always_inline bool is_carried(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_ICMP || protocol == IPPROTO_UDP;
}

/* Measures a packet of `len` bytes whose IPv4 header is at `offset`, into scratch->extent. Returns
 * false if the skb is a superpacket that is none of TCP. */
static __noinline bool measure(struct __sk_buff *skb, struct scratch *scratch, __u32 offset,
			       __u8 protocol, __u32 len)
{
	struct extent *extent = &scratch->extent;
	__u32 gso_size = skb->gso_size, headers;

	extent->num = 1;
	extent->bytes = len;
	extent->longest = len;
	if (gso_size == 0)
		return true;
	if (protocol != IPPROTO_TCP)
		return false;
	if (bpf_skb_load_bytes(skb, offset + IP_LEN + 12, &scratch->data_offset, 1))
		return false;
	headers = IP_LEN + (scratch->data_offset >> 4) * 4;
	if (headers < IP_LEN + sizeof(struct tcphdr) || headers >= len)
		return false;
	extent->num = (len - headers + gso_size - 1) / gso_size;
	extent->bytes = len + (extent->num - 1) * headers;
	if (extent->num > 1)
		extent->longest = headers + gso_size;
	return true;
}
