/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The node as an endpoint: host policies judge what comes to its own addresses, and what its own processes send. What it
 * only passes on is not judged, but remembered where it goes out under an address of the node, so that answers come back.
 * Never judged: ARP and what is no IP, ICMP errors, our overlay, neighbour discovery and DHCPv6. Other IPv6 of the node is
 * dropped. */
#pragma once
#include "heartbeat.h"
#include "node_ipv6.h"
#include "node_side.h"

/* It is judged already, whatever priority its sender gave it. */
inlined void keep(struct __sk_buff *skb)
{
	if ((skb->priority & ~BY_ANYBODY) == PASSED_ON)
		skb->priority = PASSED_ON;
}

/* To an address of the node; `p` holds the sender's identity. 0, or the reason to drop. */
apart int enter_node(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *node)
{
	if (!p || !node)
		return DROP_NO_CONFIGURATION;
	struct conntrack_key request, answer;
	ct_key_forward(&request, p, CT_INGRESS);
	ct_key_reverse(&answer, p, CT_EGRESS);
	keep(skb);
	return enter_as(skb, p, node, &request, &answer);
}

/* The ports of a flow that was somebody else's are the node's own by now: the flow is judged again. */
inlined void settle_owner(struct conntrack_value *v, const struct endpoint_value *node, int is_judged)
{
	if (!is_judged || !(v->flags & CT_FORWARDED))
		return;
	v->flags &= ~CT_FORWARDED;
	v->policy_revision = ~node->policy_revision;
}

/* Accepts a process of the node, with this packet, a connection that did not come for an address of the node? The stack
 * translated it, from the address of a Service for instance. */
inlined int accepts_unjudged(const struct __sk_buff *skb, const struct packet *p)
{
	const __u8 both = TCP_SYN | TCP_ACK;
	return p->protocol == PROTO_TCP && (p->tcp_flags & both) == both && !skb->ingress_ifindex;
}

/* It is judged now, by the address and port it came for. 0, or the reason to drop. */
outline int judge_accepted(struct __sk_buff *skb, const struct packet *p, const struct endpoint_value *node)
{
	struct conntrack_key key;
	struct packet opening = {
		.source = p->destination, .destination = p->source, .source_port = p->destination_port,
		.destination_port = p->source_port, .policy_port = p->source_port, .protocol = p->protocol,
		.tcp_flags = p->tcp_flags, .now = p->now, .source_identity = p->destination_identity,
		.destination_identity = ID_HOST, .direction = INGRESS, .endpoint_id = node->endpoint_id };
	ct_key_forward(&key, &opening, CT_INGRESS);
	return track(skb, &opening, node, &key, 0);
}

/* From the node's stack; `p` holds the receiver's identity. What is not judged is remembered, so that answers come in.
 * 0, or the reason to drop. */
outline int leave_node(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *node, int is_judged)
{
	struct conntrack_key key;
	struct conntrack_value *v;
	begin_node_side(p, node, EGRESS);
	p->source_identity = ID_HOST;
	if (p->kind & KIND_ICMP_ERROR)
		return 0;
	if (!opens_connection(p)) {
		ct_key_reverse(&key, p, CT_INGRESS);
		v = ct_lookup(&key, p);
		if (v) {
			touch_reply(skb, p, v);
			return 0;
		}
	}
	ct_key_forward(&key, p, CT_EGRESS);
	int is_attended = !is_unattended(p);
	is_judged = is_judged && is_attended;	/* who has no agent must be able to fetch one */
	if (!is_judged)
		p->conntrack_flags = CT_FORWARDED;
	v = ct_lookup(&key, p);
	if (!v && is_attended && accepts_unjudged(skb, p))
		return judge_accepted(skb, p, node);
	if (v)
		settle_owner(v, node, is_judged);
	else if (is_judged && is_guarded_answer(p, node, p->destination_identity))
		return 0;
	return track(skb, p, node, &key, v);
}
