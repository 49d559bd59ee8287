/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet's facts by offsets from its network header, where there may be no link header. */
#pragma once
#include "packet.h"

inlined int load_address(CONTEXT *skb, struct packet *p, struct iphdr *ip)
{
	if (load_bytes(skb, 0, ip, sizeof(*ip)) < 0 || ip->version != 4 || ip->ihl < 5)
		return DROP_INVALID_PACKET;
	p->source = ip->saddr;
	p->destination = ip->daddr;
	p->protocol = ip->protocol;
	p->now = clock_ns() >> TICK_SHIFT;
	return 0;
}

inlined int load_transport(CONTEXT *skb, struct packet *p, __u32 offset)
{
	struct { __be16 source, destination; __be32 sequence, acknowledged; __u8 offset, flags; } head = {};
	struct icmp_header icmp;
	int is_tcp = p->protocol == PROTO_TCP;
	if (p->protocol == PROTO_ICMP) {
		if (load_bytes(skb, offset, &icmp, sizeof(icmp)) < 0)
			return DROP_INVALID_PACKET;
		take_icmp(p, &icmp);
		return 0;
	}
	if (!is_tcp && p->protocol != PROTO_UDP && p->protocol != PROTO_SCTP)
		return 0;
	if (load_bytes(skb, offset, &head, is_tcp ? 14 : 4) < 0)
		return DROP_INVALID_PACKET;
	p->source_port = head.source;
	p->destination_port = p->policy_port = head.destination;
	p->tcp_flags = head.flags;
	return 0;
}

