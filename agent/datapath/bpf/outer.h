/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The outer headers of a packet of the overlay, or of what would pass for one. Offsets count from the network header: the
 * device may have no link header. */
#pragma once
#include "packet.h"

struct outer_packet { struct iphdr ip; __be16 ports[2]; };

/* Of a packet of IPv4: is it UDP, and not a later fragment? What ends within the ports is nobody's. */
inlined int load_udp_ports(CONTEXT *c, struct outer_packet *outer)
{
	if (load_bytes(c, 0, outer, sizeof(*outer)) < 0 || outer->ip.protocol != PROTO_UDP ||
	    outer->ip.frag_off & bpf_htons(0x1fff))
		return 0;
	__u32 header = outer->ip.ihl * 4;
	return header == sizeof(outer->ip) || load_bytes(c, header, outer->ports, sizeof(outer->ports)) >= 0;
}

inlined void take_outer(struct packet *p, const struct outer_packet *outer)
{
	p->source = outer->ip.saddr;
	p->destination = outer->ip.daddr;
	p->source_port = outer->ports[0];
	p->destination_port = outer->ports[1];
	p->protocol = PROTO_UDP;
}
