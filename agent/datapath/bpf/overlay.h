/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets of other nodes, with the sender's identity as VNI. VXLAN proves nothing, so a packet is believed only as far
 * as its outer source may speak: a known node, for identities and addresses of its own cluster. IPv6 that no program goes on
 * with is dropped with its own reason. */
#pragma once
#include "node_overlay.h"
#include "probe.h"
#include "sender.h"

/* `p` holds the identity the packet came with. */
inlined int receive(struct __sk_buff *skb, struct packet *p, __be32 outer_source)
{
	int r = parse(skb, p);
	p->tunnel_source = outer_source;
	if (r == PARSED_NEIGHBOUR || r == PARSED_IPV6) {
		p->kind |= r == PARSED_IPV6 ? KIND_IPV6 : 0;
		return drop(skb, p, DROP_UNSUPPORTED_L3);
	}
	if (!r)
		r = check_sender(p, outer_source);
	if (r)
		return drop(skb, p, r);
	remember_ports(skb, p);
	if (is_probe(p))
		return take_probe(skb, p);
	trace_arrival(skb, p, POINT_FROM_OVERLAY);
	tell_nodes_apart(p);
	struct endpoint_value *to = endpoint_of(p->destination);
	if (!to && is_own_address(p->destination))
		return receive_for_node(skb, p);
	if (!to)	/* not attached yet, or gone: who connects is refused, what is established goes on trying */
		return tell_sender(skb, p, DROP_UNROUTABLE, ICMP_UNREACHABLE << 8 | ICMP_HOST_UNREACHABLE);
	return deliver(skb, p, to, DELIVER);
}
