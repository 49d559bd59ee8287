/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet of IPv6 becomes a message about itself. Checksums of both messages include a pseudo header. */
#pragma once
#include "message.h"
#include <linux/ipv6.h>

#define ICMP_PORT_UNREACHABLE 4
#define QUOTED (sizeof(struct ipv6hdr) + 8)
#define QUOTED_TCP (sizeof(struct ipv6hdr) + 20)	/* a checksum left to the device bars a shorter packet */

/* One takes the other's place on the stack once the checksum is made. */
union message_header { struct { ip_address source, destination; __be32 length, protocol; } pseudo; struct ipv6hdr ip; };
struct icmp_error { union message_header header; struct icmp_header icmp; __u8 quote[QUOTED_TCP]; };
struct reset { union message_header header; struct tcp_header tcp; };

inlined void begin_message(union message_header *header, const ip_address *from, const struct packet *p, __u16 length,
			   __u8 protocol)
{
	header->pseudo.source = *from;
	header->pseudo.destination = p->source;
	header->pseudo.length = bpf_htonl(length);
	header->pseudo.protocol = bpf_htonl(protocol);
}

inlined void finish_header(union message_header *header, const ip_address *from, const struct packet *p, __u16 length,
			   __u8 protocol)
{
	header->ip = (struct ipv6hdr){ .version = 6, .payload_len = bpf_htons(length), .nexthdr = protocol, .hop_limit = 64 };
	__builtin_memcpy(&header->ip.saddr, from, sizeof(*from));
	__builtin_memcpy(&header->ip.daddr, &p->source, sizeof(p->source));
}

/* The packet becomes an ICMPv6 error about itself, to its sender. `what`: type, code and, in the upper half, the MTU.
 * 0, or DROP_WRITE. */
outline int become_icmp_error(struct __sk_buff *skb, const struct packet *p, address_argument from, __u32 what)
{
	struct icmp_error error = {};
	int is_tcp = p->protocol == PROTO_TCP, quoted = is_tcp ? QUOTED_TCP : QUOTED;
	begin_message(&error.header, from, p, sizeof(error.icmp) + quoted, PROTO_ICMPV6);
	error.icmp.type = what >> 8 & 0xff;
	error.icmp.code = what & 0xff;
	error.icmp.sequence = bpf_htons(what >> 16);
	if ((is_tcp ? bpf_skb_load_bytes(skb, L3_OFFSET, error.quote, QUOTED_TCP)
		    : bpf_skb_load_bytes(skb, L3_OFFSET, error.quote, QUOTED)) < 0)
		return DROP_WRITE;
	error.icmp.check = fold(bpf_csum_diff(0, 0, (void *)&error, sizeof(error), 0));
	finish_header(&error.header, from, p, sizeof(error.icmp) + quoted, PROTO_ICMPV6);
	const int size = sizeof(error.header) + sizeof(error.icmp);	/* they are next to each other here and there */
	if (bpf_skb_change_tail(skb, L3_OFFSET + quoted, 0) < 0 ||
	    bpf_skb_adjust_room(skb, size, BPF_ADJ_ROOM_MAC, 0) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET, &error, size, BPF_F_INVALIDATE_HASH) < 0)
		return DROP_WRITE;
	return swap_macs(skb);
}

/* The packet becomes the reset of its connection (RFC 9293 3.10.7.1). 0, or DROP_WRITE. */
outline int become_reset(struct __sk_buff *skb, const struct packet *p)
{
	struct reset r = {};
	struct tcp_header got;
	begin_message(&r.header, &p->destination, p, sizeof(r.tcp), PROTO_TCP);
	if (bpf_skb_load_bytes(skb, p->l4_offset, &got, sizeof(got)) < 0)
		return DROP_WRITE;
	reset_of(&r.tcp, &got, p, skb->len);
	r.tcp.check = fold(bpf_csum_diff(0, 0, (void *)&r, sizeof(r), 0));
	finish_header(&r.header, &p->destination, p, sizeof(r.tcp), PROTO_TCP);
	if (bpf_skb_change_tail(skb, L3_OFFSET + sizeof(r), 0) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET, &r, sizeof(r), BPF_F_INVALIDATE_HASH) < 0)
		return DROP_WRITE;
	return swap_macs(skb);
}
