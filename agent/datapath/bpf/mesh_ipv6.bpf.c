/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tc programs that go on with packets of IPv6 where those of mesh_pod and mesh_overlay found one, by mesh_calls. Node ports are
 * the node's stack's. */
#define IPV6_PACKETS
#include "deliver.h"
#include "encap.h"
#include "lb.h"
#include "neighbour6.h"
#include "node_ipv6.h"
#include "overlay6.h"
#include "way.h"

/* What the stack keeps for the node itself is dropped where the node has policies. */
inlined int hand_to_stack(struct __sk_buff *skb, struct packet *p)
{
	int r = node_endpoint() ? judge_ipv6(skb, INGRESS) : 0;
	return r ? drop(skb, p, r) : pass_to_stack(skb, p);
}

/* Addresses of a link say nothing about who has them, so no policy can be asked. */
inlined int is_of_link(const struct packet *p)
{
	return is_link_local(p->source) || is_link_local(p->destination);
}

inlined int pass_unjudged(struct __sk_buff *skb, struct packet *p, int is_enforced)
{
	if (is_enforced || (node_endpoint() && judge_ipv6(skb, !p->direction)))
		return drop(skb, p, DROP_UNSUPPORTED_L3);
	count(UNJUDGED_TO_STACK, p->direction, skb->len);
	return PASS;
}

outline int leave_node(struct __sk_buff *skb, struct packet *p, const struct way *w)
{
	__be32 node = w->remote ? tunnel_of(w->remote) : 0;
	return node ? encapsulate(skb, p, node) : hand_to_stack(skb, p);
}

/* Where a pod that is its own backend answers. */
outline int is_loopback(const ip_address *address)
{
	return is_same(*address, LOOPBACK_ADDRESS);
}

inlined int leave(struct __sk_buff *skb, struct packet *p, const struct way *w)
{
	if (p->conntrack_flags & CT_VIA_STACK)
		return hand_to_stack(skb, p);
	if (w->local)
		return deliver(skb, p, w->local, p->conntrack_flags & CT_LOOPBACK ? DELIVER_HAIRPIN : DELIVER);
	if (p->protocol == PROTO_UDP && p->destination_port == CONFIG.vxlan_port)
		return drop(skb, p, DROP_ENCAPSULATION);
	return leave_node(skb, p, w);
}

/* Functions are called where IPv4 has them inlined: addresses are large, and a program has 512 bytes of stack. */
outline int continues_established(struct __sk_buff *skb, struct packet *p)
{
	return is_answer(skb, p, 1);
}

outline struct conntrack_value *connection_now(const struct packet *p)
{
	struct conntrack_key key;
	ct_key_forward(&key, p, CT_EGRESS);
	return ct_lookup(&key, p);
}

outline int track_egress(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *from, struct conntrack_value *v)
{
	struct conntrack_key key;
	ct_key_forward(&key, p, CT_EGRESS);
	return track(skb, p, from, &key, v);
}

/* A connection this pod opens, or an answer within one that is not established yet. 0, or the reason to drop. */
outline int open_or_continue(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *from, struct way *w)
{
	int r = translate_service_apart(skb, p);
	if (r)
		return r;
	struct conntrack_value *v = connection_now(p);
	if (!v && !p->frontend_port) {
		if (is_late_answer(skb, p)) {
			find_way(p, w);
			return 0;
		}
		if (!(p->kind & (KIND_MIDSTREAM | KIND_UNATTENDED)))
			r = translate_orphan_apart(skb, p);
		if (r)
			return r;
		v = connection_now(p);
	}
	find_way(p, w);
	if (would_take_over(p, v))
		return DROP_NAT_FULL;
	keep_old_path(p, w, v);
	return track_egress(skb, p, from, v);
}

SEC("tc")
int mesh_from_container6(struct __sk_buff *skb)
{
	struct packet p = { .direction = EGRESS, .kind = KIND_IPV6 };
	struct way w = {};
	struct endpoint_value *from = endpoint_here(skb);
	if (!from)
		return drop(skb, &p, DROP_NO_CONFIGURATION);
	p.endpoint_id = from->endpoint_id;
	p.source_identity = from->identity;
	p.kind |= from->flags & ENFORCE_EGRESS ? KIND_ENFORCED : 0;
	int r = parse(skb, &p);
	if (r)
		return drop(skb, &p, r);
	if (is_discovery(&p)) {
		r = check_discovery(skb, &p, from);
		return r ? drop(skb, &p, r) : PASS;
	}
	if (!is_own(skb, from, &p.source))
		return drop(skb, &p, DROP_INVALID_SOURCE);
	if (is_of_link(&p))
		return pass_unjudged(skb, &p, from->flags & ENFORCE_EGRESS);
	remember_ports(skb, &p);
	trace_arrival(skb, &p, POINT_FROM_ENDPOINT);
	if (is_loopback(&p.destination))
		return deliver(skb, &p, from, DELIVER_REPLY_ONLY);
	if (p.kind & KIND_ICMP_ERROR) {
		r = related(skb, &p, CT_INGRESS);
		if (r == DROP_UNRELATED_ICMP)
			r = related_to_service(skb, &p);
		find_way(&p, &w);
	} else if (continues_established(skb, &p)) {
		find_way(&p, &w);
	} else {
		r = open_or_continue(skb, &p, from, &w);
	}
	if (r == DROP_NO_BACKEND || r == DROP_NAT_FULL)
		return refuse(skb, &p, r);
	return r ? drop(skb, &p, r) : leave(skb, &p, &w);
}

/* Packets the node's stack sends into the pod: from the node itself, from outside, or routed by the CNI plugin. */
SEC("tc")
int mesh_to_container6(struct __sk_buff *skb)
{
	struct packet p = { .direction = INGRESS, .kind = KIND_IPV6 };
	struct endpoint_value *to = endpoint_here(skb);
	if (!to)
		return drop(skb, &p, DROP_NO_CONFIGURATION);
	p.endpoint_id = to->endpoint_id;
	p.destination_identity = to->identity;
	int r = parse(skb, &p);
	if (r)
		return drop(skb, &p, r);
	if (is_discovery(&p)) {
		r = check_discovery_of_link(skb, &p);
		return r ? drop(skb, &p, r) : PASS;
	}
	if (is_of_link(&p))
		return pass_unjudged(skb, &p, to->flags & ENFORCE_INGRESS);
	struct endpoint_value *local = endpoint_of(p.source);
	struct ipcache_value *remote = local ? 0 : ipcache_lookup(p.source);
	p.source_identity = identity_by_stack(skb, &p, local, remote);
	r = check_way(skb, &p, local, remote);
	if (!r && node_endpoint())
		r = judge_ipv6(skb, EGRESS);
	if (r)
		return drop(skb, &p, r);
	remember_ports(skb, &p);
	trace_arrival(skb, &p, p.source_identity == ID_HOST ? POINT_FROM_HOST : POINT_FROM_STACK);
	return deliver(skb, &p, to, DELIVER_VIA_STACK);
}

/* The identity that the packet came with is in `p`; the node that sent it, or 0 if it has none. */
outline __be32 read_tunnel(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_tunnel_key key;
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0) < 0)
		return 0;
	p->source_identity = key.tunnel_id;
	return bpf_htonl(key.remote_ipv4);
}

SEC("tc")
int mesh_from_overlay6(struct __sk_buff *skb)
{
	struct packet p = { .direction = INGRESS, .kind = KIND_IPV6 };
	__be32 sender = read_tunnel(skb, &p);
	return sender ? receive(skb, &p, sender) : drop(skb, &p, DROP_NO_TUNNEL_KEY);
}

char _license[] SEC("license") = "Dual BSD/GPL";
