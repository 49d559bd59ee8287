/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Translation of one end of a packet; keeps struct packet equal to the bytes. */
#pragma once
#ifdef IPV6_PACKETS
#include "csum6.h"
#else
#include "csum.h"
#endif

/* Records name who sent the packet, not what its source was made. */
inlined void keep_origin(struct packet *p)
{
	p->origin = p->source;
	p->origin_port = p->source_port;
}

/* port 0 leaves the port alone. 0, or DROP_WRITE. */
apart int nat_source(struct __sk_buff *skb, struct packet *p, address_argument to, __be16 port)
{
	if (!p || NO_ARGUMENT(to))
		return DROP_WRITE;
	ip_address address = value_of(to);
	int r = replace_address(skb, p, SOURCE_OFFSET, p->source, address);
	if (!r && port)
		r = replace_port(skb, p, p->l4_offset, p->source_port, port);
	p->source = address;
	if (port)
		p->source_port = port;
	return r;
}

apart int nat_destination(struct __sk_buff *skb, struct packet *p, address_argument to, __be16 port)
{
	if (!p || NO_ARGUMENT(to))
		return DROP_WRITE;
	ip_address address = value_of(to);
	int r = replace_address(skb, p, DESTINATION_OFFSET, p->destination, address);
	if (!r && port)
		r = replace_port(skb, p, p->l4_offset + 2, p->destination_port, port);
	p->destination = address;
	if (port) {
		p->destination_port = port;
		if (p->protocol != PROTO_OF_ICMP)
			p->policy_port = port;
	}
	return r;
}
