/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tc programs on a pod's node-side interface. One copy serves every pod: facts come from mesh_ep_ifindex.
 * Where no program goes on with IPv6, it passes to the stack from and to endpoints that enforce nothing in that direction, and
 * is dropped with its own reason where policy would have to be applied. */
#include "deliver.h"
#include "encap.h"
#include "lb.h"
#include "node.h"
#include "way.h"

inlined int leave_ipv6(struct __sk_buff *skb, struct packet *p, int enforced, __u32 place)
{
	bpf_tail_call(skb, &mesh_calls, place);	/* comes back only if there is none */
	p->kind |= KIND_IPV6;
	if (enforced || (node_endpoint() && judge_ipv6(skb, !p->direction)))
		return drop(skb, p, DROP_UNSUPPORTED_L3);
	count(UNJUDGED_TO_STACK, p->direction, skb->len);
	return PASS;
}

/* ARP of a pod says that its own address is at its own MAC; a probe (RFC 5227) names no address yet. */
inlined int check_neighbour(struct __sk_buff *skb, const struct endpoint_value *from)
{
	struct { __u8 fixed[8]; __u8 mac[6] __attribute__((aligned(2))); __u8 address[4]; } arp;	/* of the sender */
	__be32 address;
	if (bpf_skb_load_bytes(skb, L3_OFFSET, &arp, sizeof(arp)) < 0)
		return DROP_INVALID_PACKET;
	__builtin_memcpy(&address, arp.address, 4);
	if (!is_mac_of(from, arp.mac))
		return DROP_INVALID_MAC;
	return address && address != address_of(from) ? DROP_INVALID_SOURCE : 0;
}

/* What the stack keeps for the node itself is judged by the node's policies. Nothing goes there from the overlay's port:
 * rules that give it the node's address would leave it that port, and what nodes send to the overlay would be answers. */
inlined int hand_to_stack(struct __sk_buff *skb, struct packet *p)
{
	struct endpoint_value *node = node_endpoint();
	if (p->protocol == PROTO_UDP && p->source_port == CONFIG.vxlan_port)
		return drop(skb, p, DROP_ENCAPSULATION);
	if (node && is_of_node(skb, p->destination)) {
		int r = enter_node(skb, p, node);
		if (r)
			return drop(skb, p, r);
	} else if (node) {
		pass_on(skb, BY_POD);
	}
	return pass_to_stack(skb, p);
}

inlined int leave(struct __sk_buff *skb, struct packet *p, const struct way *w)
{
	if (p->conntrack_flags & CT_VIA_STACK)
		return hand_to_stack(skb, p);
	if (w->local)
		return deliver(skb, p, w->local, p->conntrack_flags & CT_LOOPBACK ? DELIVER_HAIRPIN : DELIVER);
	if (p->protocol == PROTO_UDP && p->destination_port == CONFIG.vxlan_port)
		return drop(skb, p, DROP_ENCAPSULATION);
	__be32 node = w->remote ? tunnel_of(w->remote) : 0;
	if (!node && p->conntrack_flags & CT_BY_TUNNEL && is_node(w->remote))
		node = p->destination;	/* it came from the node itself */
	return node ? encapsulate(skb, p, node) : hand_to_stack(skb, p);
}

/* To an address of this node: a node port may lead on. A node that host policies judge keeps what is for it. 0, or the reason
 * to drop. */
outline int call_node_port(struct __sk_buff *skb, struct packet *p, struct way *w, struct conntrack_key *key,
			   struct conntrack_value **v)
{
	if (node_endpoint() || p->kind & (KIND_MIDSTREAM | KIND_UNATTENDED))
		return 0;
	int r = translate_node_port(skb, p);
	if (r || !p->frontend_port)
		return r;
	ct_key_forward(key, p, CT_EGRESS);
	*v = ct_lookup(key, p);
	find_way(p, w);
	return 0;
}

/* A connection this pod opens, or an answer within one that is not established yet. 0, or the reason to drop. */
inlined int open_or_continue(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *from, struct way *w)
{
	struct conntrack_key key;
	struct conntrack_value *v = 0;
	int r = translate_service(skb, p, &v);
	if (r)
		return r;
	ct_key_forward(&key, p, CT_EGRESS);
	if (!v)
		v = ct_lookup(&key, p);
	if (!v && !p->frontend_port) {
		if (is_late_answer(skb, p)) {
			find_way(p, w);
			return 0;
		}
		if (!(p->kind & (KIND_MIDSTREAM | KIND_UNATTENDED)))
			r = translate_orphan(skb, p, &v);
		if (r && r != DROP_NO_BACKEND)
			return r;
		if (r)
			v = 0;
		ct_key_forward(&key, p, CT_EGRESS);
		if (!v)
			v = ct_lookup(&key, p);
	}
	find_way(p, w);
	int ended = r;	/* a node port whose backend is gone leads datagrams to another one */
	if (!v && !p->frontend_port && w->remote && w->remote->identity == ID_HOST) {
		r = call_node_port(skb, p, w, &key, &v);
		if (r)
			return r;
	}
	if (ended && !p->frontend_port)
		return ended;
	if (would_take_over(p, v))
		return DROP_NAT_FULL;
	keep_old_path(p, w, v);
	return track(skb, p, from, &key, v);
}

SEC("tc")
int mesh_from_container(struct __sk_buff *skb)
{
	struct packet p = { .direction = EGRESS };
	struct way w = {};
	struct endpoint_value *from = endpoint_here(skb);
	if (!from)
		return drop(skb, &p, DROP_NO_CONFIGURATION);
	p.endpoint_id = from->endpoint_id;
	p.source_identity = from->identity;
	p.kind = from->flags & ENFORCE_EGRESS ? KIND_ENFORCED : 0;
	int r = check_mac(skb, from);
	if (!r)
		r = parse(skb, &p);
	if (r == PARSED_NEIGHBOUR) {
		r = check_neighbour(skb, from);
		return r ? drop(skb, &p, r) : PASS;
	}
	if (r == PARSED_IPV6)
		return leave_ipv6(skb, &p, from->flags & ENFORCE_EGRESS, FROM_CONTAINER6);
	if (r)
		return drop(skb, &p, r);
	if (p.source != address_of(from))
		return drop(skb, &p, DROP_INVALID_SOURCE);
	remember_ports(skb, &p);
	trace_arrival(skb, &p, POINT_FROM_ENDPOINT);
	if (p.destination == CONFIG.loopback_address)
		return deliver(skb, &p, from, DELIVER_REPLY_ONLY);
	if (p.kind & KIND_ICMP_ERROR) {
		r = related(skb, &p, CT_INGRESS);
		if (r == DROP_UNRELATED_ICMP)
			r = related_to_service(skb, &p);
		find_way(&p, &w);
	} else if (is_answer(skb, &p, 1)) {
		find_way(&p, &w);
	} else {
		r = open_or_continue(skb, &p, from, &w);
	}
	if (r == DROP_NO_BACKEND || r == DROP_NAT_FULL)
		return refuse(skb, &p, r);
	if (r)
		return drop(skb, &p, r);
	if (p.proxy_port && node_endpoint() && is_of_node(skb, p.destination))
		return drop(skb, &p, DROP_PROXY);	/* the proxy would ask as the node, whom its policies do not judge */
	if (p.proxy_port)
		return to_proxy(skb, &p, from, 0);
	return leave(skb, &p, &w);
}

/* A node always reaches its own pods, for the kubelet's probes; their answers must come in. 0, or the reason to drop. */
inlined int remember_sender(struct __sk_buff *skb, struct packet *p)
{
	struct endpoint_value *node = node_endpoint();
	__u32 identity = p->source_identity;
	if (!node || (skb->ingress_ifindex && !is_of_node(skb, p->source)))
		return 0;
	int r = leave_node(skb, p, node, 0);
	p->source_identity = identity;
	p->trace = p->is_reported = 0;
	return r;
}

/* Packets the node's stack sends into the pod: from the node itself, from outside, or routed by the CNI plugin. */
SEC("tc")
int mesh_to_container(struct __sk_buff *skb)
{
	if (take_mark(skb))
		return PASS;
	struct packet p = { .direction = INGRESS };
	struct endpoint_value *to = endpoint_here(skb);
	if (!to)
		return drop(skb, &p, DROP_NO_CONFIGURATION);
	p.endpoint_id = to->endpoint_id;
	p.destination_identity = to->identity;
	if (to->flags & BRIDGE_PORT && !is_addressed(skb, to, 1))
		return TC_ACT_SHOT;	/* flooded, for another port: the pod would not take it, and shall not read it */
	int r = parse(skb, &p);
	if (r == PARSED_NEIGHBOUR)
		return PASS;
	if (r == PARSED_IPV6)
		return leave_ipv6(skb, &p, to->flags & ENFORCE_INGRESS, TO_CONTAINER6);
	if (r)
		return drop(skb, &p, r);
	struct endpoint_value *local = endpoint_of(p.source);
	struct ipcache_value *remote = local ? 0 : ipcache_lookup(p.source);
	p.source_identity = identity_by_stack(skb, &p, local, remote);
	if (is_by_proxy(skb)) {
		note_proxy(skb, &p);
		begin_as_pod(skb, &p, p.source, p.source_port);
		trace_arrival(skb, &p, POINT_FROM_PROXY);
		return deliver(skb, &p, to, DELIVER_VIA_STACK);
	}
	r = check_way(skb, &p, local, remote);
	if (r)
		return drop(skb, &p, r);
	remember_ports(skb, &p);
	trace_arrival(skb, &p, p.source_identity == ID_HOST ? POINT_FROM_HOST : POINT_FROM_STACK);
	r = remember_sender(skb, &p);
	if (r)
		return drop(skb, &p, r);
	return deliver(skb, &p, to, DELIVER_VIA_STACK);
}

char _license[] SEC("license") = "Dual BSD/GPL";
