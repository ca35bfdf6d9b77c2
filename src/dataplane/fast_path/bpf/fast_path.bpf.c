/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* The short cut of TCP (all, or sparse flows), ICMP and sparse UDP between the overlay device and the underlay: what the workers do,
 * without leaving the kernel. Whatever these programs do not surely understand they leave, unchanged,
 * to the workers. `make bpf` compiles this to fast_path.bpf.o. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2

/* VXLAN with the protocol extension (draft-ietf-nvo3-vxlan-gpe, section 3.1). */
struct gpe_header {
	__u8 flags;
	__u16 reserved;
	__u8 next_protocol;
	__be32 vni;
} __attribute__((packed));

#define GPE_FLAGS 0x0c  /* a VNI, and a next protocol */
#define GPE_IPV4 1

#include "tables.h"
#include "packet.h"
#include "datagram.h"
#include "flows.h"
#include "egress.h"
#include "ingress.h"
#include "xdp.h"

/* bpf_fib_lookup() is for programs under the GPL. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
