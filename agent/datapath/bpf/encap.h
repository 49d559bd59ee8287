/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* To another node: VXLAN with the source's identity as VNI, through the collect-metadata device. */
#pragma once
#include "events.h"
#include "mtu.h"

inlined int encapsulate(struct __sk_buff *skb, struct packet *p, __be32 node)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = p->source_identity, .remote_ipv4 = bpf_ntohl(node), .tunnel_ttl = TUNNEL_TTL };
	if (p->source_identity >> IDENTITY_BITS)
		return drop(skb, p, DROP_INVALID_IDENTITY);
	if (is_too_big(skb, p))
		return tell_mtu(skb, p);
	int r = decrement_ttl(skb);
	if (r)
		return end_way(skb, p, r);
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0)
		return drop(skb, p, DROP_WRITE);
	trace(skb, p, POINT_OVERLAY);
	count(TO_OVERLAY, p->direction, skb->len);
	set_mark(skb);
	return bpf_redirect(CONFIG.overlay_ifindex, 0);
}

inlined int pass_to_stack(struct __sk_buff *skb, struct packet *p)
{
	trace(skb, p, p->destination_identity == ID_HOST ? POINT_HOST : POINT_STACK);
	count(TO_STACK, p->direction, skb->len);
	return PASS;
}
