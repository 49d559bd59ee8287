/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets of IPv6 that other nodes send, inside of the same overlay: believed as far as those of IPv4 are. Nothing of IPv6 is
 * for the node itself here. */
#pragma once
#include "deliver.h"
#include "sender.h"

/* `p` holds the identity the packet came with. */
inlined int receive(struct __sk_buff *skb, struct packet *p, __be32 outer_source)
{
	int r = parse(skb, p);
	p->tunnel_source = outer_source;
	if (!r)
		r = check_sender(p, outer_source);
	if (r)
		return drop(skb, p, r);
	remember_ports(skb, p);
	trace_arrival(skb, p, POINT_FROM_OVERLAY);
	tell_nodes_apart(p);
	struct endpoint_value *to = endpoint_of(p->destination);
	return to ? deliver(skb, p, to, DELIVER) : drop(skb, p, DROP_UNROUTABLE);
}
