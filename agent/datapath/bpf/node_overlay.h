/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The node's own connections to pods of other clusters: through the overlay as `remote-node`, from the node's address, and
 * the answers back into its stack as if they had come by the underlay device. Only what the node opened comes in this way. */
#pragma once
#include "deliver.h"
#include "encap.h"
#include "nat_ports.h"
#include "node.h"

#define FOR_THIS_HOST 0	/* skb->pkt_type of a frame with the device's own MAC */

/* The stack that sends a packet is told in place of a router. */
inlined int tell_stack(struct __sk_buff *skb, struct packet *p, int reason, __u32 what)
{
	drop(skb, p, reason);
	if (p->l4_offset != L3_OFFSET + sizeof(struct iphdr) || p->kind & (KIND_LATER_FRAGMENT | KIND_ICMP_ERROR) ||
	    become_icmp_error(skb, p, p->destination, what))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

/* Is it a pod of another cluster, and can the device hand packets to the overlay? */
inlined int is_for_overlay(const struct ipcache_value *to)
{
	return to && tunnel_of(to) && to->cluster_id != CONFIG.cluster_id && CONFIG.flags & CONFIG_UNDERLAY_ETHERNET;
}

inlined int enter_overlay(struct __sk_buff *skb, struct packet *p, __be32 node, __u32 identity)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = identity, .remote_ipv4 = bpf_ntohl(node), .tunnel_ttl = TUNNEL_TTL };
	if (is_too_big(skb, p))
		return tell_stack(skb, p, DROP_FRAG_NEEDED,
				  CONFIG.overlay_mtu << 16 | ICMP_UNREACHABLE << 8 | ICMP_FRAG_NEEDED);
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0)
		return drop(skb, p, DROP_WRITE);
	trace(skb, p, POINT_OVERLAY);
	count(TO_OVERLAY, EGRESS, skb->len);
	set_mark(skb);
	return bpf_redirect(CONFIG.overlay_ifindex, 0);
}

/* Is it part of what the node opens, or opened? Answers go the way that the question came, and so do connections that are
 * older than the programs. */
inlined int is_own_connection(const struct packet *p)
{
	struct conntrack_key key;
	if (p->kind & KIND_ICMP_ERROR || (p->protocol != PROTO_TCP && p->protocol != PROTO_ICMP) || opens_connection(p))
		return 1;
	ct_key_forward(&key, p, CT_EGRESS);
	return ct_lookup(&key, p) != 0;
}

/* Host policies have judged it before, where there are any. An address of the node that peers do not know is not spoken
 * for: its packets go on as they did. */
outline int send_by_overlay(struct __sk_buff *skb, struct packet *p, const struct ipcache_value *to)
{
	__u32 zero = 0;
	__be32 tunnel = tunnel_of(to);
	p->destination_identity = to->identity;
	struct endpoint_value *node = bpf_map_lookup_elem(&mesh_node, &zero);
	if (skb->vlan_present)
		return PASS;	/* a VLAN's, which happens to be on this device */
	int r = parse(skb, p);
	if (r || !node)
		return drop(skb, p, r ? r : DROP_NO_CONFIGURATION);
	if (!is_own_address(p->source) || !is_own_connection(p))
		return PASS;
	remember_ports(skb, p);
	if (!node_endpoint())
		r = leave_node(skb, p, node, 0);
	if (r)
		return drop(skb, p, r);
	p->direction = EGRESS;
	p->source_identity = ID_HOST;
	return enter_overlay(skb, p, tunnel, ID_REMOTE_NODE);
}

/* By which node an answer of the proxy goes to whoever asked, where the packet's receiver is not behind one itself; 0: as
 * the stack sends it. */
inlined __be32 answered_by(const struct packet *p, const struct ipcache_value *to)
{
	struct conntrack_key key;
	ct_key_reverse(&key, p, CT_INGRESS);
	struct conntrack_value *v = ct_lookup(&key, p);
	if (v && v->flags & CT_VIA_STACK)
		return 0;
	return tunnel_of(to) ? tunnel_of(to) : v && v->flags & CT_BY_TUNNEL && is_node(to) ? p->destination : 0;
}

/* Rules of the node may have given a packet by which the proxy asks or connects another source, as what pods send out
 * of their cluster gets it. Its socket knows in whose name it is. 0 if that is no other, else 1. */
inlined int is_renamed(const struct __sk_buff *skb, const struct packet *p, __be32 *source, __be16 *port)
{
	struct bpf_sock *found = skb->sk;
	if (!found || (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP) || proxy_mark(skb) != MARK_EGRESS_UPSTREAM)
		return 0;
	found = bpf_sk_fullsock(found);
	if (!found)
		return 0;
	*source = found->src_ip4;
	*port = bpf_htons(found->src_port);
	return *source != p->source || *port != p->source_port;
}

/* What the proxy sends in the name of a pod of this node goes the way the pod's packets go, as the pod's. */
outline int send_for_pod(struct __sk_buff *skb, struct packet *p)
{
	if (skb->vlan_present || !(CONFIG.flags & CONFIG_UNDERLAY_ETHERNET))
		return PASS;
	int r = parse(skb, p);
	if (r)
		return PASS;
	__be32 source = p->source;
	__be16 port = p->source_port;
	int is_other = is_renamed(skb, p, &source, &port);
	begin_as_pod(skb, p, source, port);
	struct endpoint_value *pod = endpoint_of(source);
	struct ipcache_value *to = pod ? ipcache_lookup(p->destination) : 0;
	if (!to)
		return PASS;
	__be32 node = proxy_mark(skb) == MARK_EGRESS_UPSTREAM ? tunnel_of(to) : answered_by(p, to);
	if (!node)
		return PASS;
	p->endpoint_id = pod->endpoint_id;
	p->source_identity = pod->identity;
	p->destination_identity = to->identity;
	if (p->source_identity >> IDENTITY_BITS)
		return drop(skb, p, DROP_INVALID_IDENTITY);
	if (is_other)
		r = nat_source(skb, p, source, port);
	if (r)
		return drop(skb, p, r);
	if (p->protocol == PROTO_TCP && opens_connection(p)) {
		struct conntrack_key key;
		ct_key_of(&key, &source, &p->destination, port, p->destination_port, p->protocol, CT_EGRESS);
		ct_forget_opposite(&key);
	}
	skb->mark = MARK_TO_PROXY;	/* for what tells the stack, in place of a router, that it is too big */
	return enter_overlay(skb, p, node, p->source_identity);
}

/* An answer to an outsider: it gets it from where it asked. The way to it is the underlay device's. */
outline int answer_outside(struct __sk_buff *skb, struct packet *p, struct nat_value *v)
{
	struct nat_key key;
	__be32 client, frontend;
	__be16 client_port = v->destination_port, frontend_port = v->source_port;
	__builtin_memcpy(&client, v->destination, 4);
	__builtin_memcpy(&frontend, v->source, 4);
	nat_key_of(&key, client, frontend, client_port, frontend_port, p->protocol, NAT_FORWARD);
	struct nat_value *opened = nat_find(&key, p);
	p->destination_identity = ID_WORLD;
	keep_origin(p);
	p->frontend = frontend;
	p->frontend_port = frontend_port;
	if (opened) {
		int is_first = !opened->reported_reply;
		nat_touch(opened, p, skb->len, 1);
		v->lifetime = opened->lifetime;
		if (is_first)
			emit(skb, p, EVENT_TRANSLATION, 0, TRANSLATED_BACK);
	}
	int r = decrement_ttl(skb);
	if (!r)
		r = nat_source(skb, p, frontend, frontend_port);
	if (!r)
		r = nat_destination(skb, p, client, client_port);
	if (r)
		return drop(skb, p, r);
	trace(skb, p, POINT_NETWORK);
	count(TO_STACK, INGRESS, skb->len);
	return bpf_redirect_neigh(CONFIG.underlay_ifindex, 0, 0, 0);
}

/* Is it of a connection from outside? Then `r` is the verdict. */
inlined int is_for_outside(struct __sk_buff *skb, struct packet *p, int *r)
{
	struct nat_key key;
	if (p->kind & KIND_ICMP_ERROR) {
		*r = translate_error_outwards(skb, p);
		if (*r == DROP_UNRELATED_ICMP)
			return 0;
		*r = *r ? drop(skb, p, *r) : bpf_redirect_neigh(CONFIG.underlay_ifindex, 0, 0, 0);
		return 1;
	}
	nat_key_of(&key, p->source, p->destination, p->source_port, p->destination_port, p->protocol, NAT_REPLY);
	struct nat_value *v = opens_connection(p) ? 0 : nat_find(&key, p);
	if (!v)
		return 0;
	*r = answer_outside(skb, p, v);
	return 1;
}

/* What the overlay brings for an address of this node that is no pod's: answers to what the node opened, and to outsiders. */
outline int receive_for_node(struct __sk_buff *skb, struct packet *p)
{
	struct conntrack_key key;
	struct conntrack_value *v;
	int r;
	p->destination_identity = ID_HOST;
	if (is_for_outside(skb, p, &r))
		return r;
	if (p->kind & KIND_ICMP_ERROR) {
		r = related(skb, p, CT_EGRESS);
		if (r)
			return drop(skb, p, r);
	} else {
		ct_key_reverse(&key, p, CT_EGRESS);
		v = opens_connection(p) ? 0 : ct_lookup(&key, p);
		if (!v)
			return drop(skb, p, DROP_UNROUTABLE);
		if (!node_endpoint())	/* else host policies see it once more */
			touch_reply(skb, p, v);
	}
	trace(skb, p, POINT_HOST);
	count(TO_STACK, INGRESS, skb->len);
	set_mark(skb);
	return bpf_redirect(CONFIG.underlay_ifindex, BPF_F_INGRESS);
}
