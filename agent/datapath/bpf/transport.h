/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What is read of a transport's header, behind that of either family. `end` is where the packet ends by its own header: what a
 * frame has behind that is nobody's, and the receiver never sees it. */
#pragma once
#include "packet.h"

/* No error is so large that it has fragments (RFC 1812 4.3.2.3, RFC 4443 2.4): what one quotes could stand in the second. */
inlined int parse_icmp(struct __sk_buff *skb, struct packet *p, __u32 end)
{
	struct icmp_header icmp;
	if (p->l4_offset + sizeof(icmp) > end || bpf_skb_load_bytes(skb, p->l4_offset, &icmp, sizeof(icmp)) < 0)
		return DROP_INVALID_PACKET;
	take_icmp(p, &icmp);
	return p->kind & KIND_ICMP_ERROR && p->kind & KIND_FIRST_FRAGMENT ? DROP_INVALID_PACKET : 0;
}

inlined int parse_ports(struct __sk_buff *skb, struct packet *p, __u32 end)
{
	struct { __be16 source, destination; __be32 sequence, acknowledged; __u8 offset, flags; } head;
	int is_tcp = p->protocol == PROTO_TCP, is_sctp = p->protocol == PROTO_SCTP;
	const __u32 size = is_tcp ? 14 : is_sctp ? 8 : 4;
	if (p->l4_offset + size > end || bpf_skb_load_bytes(skb, p->l4_offset, &head, size) < 0 ||
	    (is_tcp && head.offset >> 4 < 5))
		return DROP_INVALID_PACKET;
	p->source_port = head.source;
	p->destination_port = p->policy_port = head.destination;
	p->tcp_flags = is_tcp ? head.flags : 0;
	if (is_sctp)	/* the verification tag of an INIT, and of nothing else, is 0 */
		p->tcp_flags = head.sequence ? TCP_ACK : TCP_SYN;
	return 0;
}

/* 0, or a drop reason. */
inlined int parse_transport(struct __sk_buff *skb, struct packet *p, __u32 end)
{
	switch (p->protocol) {
	case PROTO_TCP:
	case PROTO_UDP:
	case PROTO_SCTP:
		return parse_ports(skb, p, end);
	case PROTO_OF_ICMP:
		return parse_icmp(skb, p, end);
	}
	return 0;
}
