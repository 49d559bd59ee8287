/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes the device below the overlay, as far as it is the node's own. Offsets count from the network header: the
 * device may have no link header. */
#pragma once
#include "load.h"
#include "node.h"
#include "parse.h"

#define VLAN_ID 0xfff

/* 0, or the reason to drop. */
outline int load_ports(struct __sk_buff *skb, struct packet *p, const struct iphdr *ip)
{
	if (ip->frag_off & bpf_htons(0x1fff))
		return later_fragment(p, ip->id);
	int r = load_transport(skb, p, ip->ihl * 4);
	if (r || !(ip->frag_off & bpf_htons(0x2000)) || endpoint_of(p->source))
		return r;	/* ports of its fragments a pod of this node says itself, where it sends them */
	struct fragment_value ports = { p->source_port, p->destination_port, p->policy_port, 0 };
	struct fragment_key key;
	fragment_key_of(&key, p, ip->id);
	bpf_map_update_elem(&mesh_fragments, &key, &ports, BPF_ANY);
	return 0;
}

/* A second VLAN tag within one of VLAN 0: the stack takes both off and keeps the packet as its own, after the programs. Within
 * a tag of another VLAN it goes to that VLAN's device. */
inlined int is_tagged_for_nobody(const struct __sk_buff *skb)
{
	return (skb->protocol == bpf_htons(ETH_P_8021Q) || skb->protocol == bpf_htons(ETH_P_8021AD)) &&
	       !(skb->vlan_tci & VLAN_ID);
}

/* Comes in from outside. 0, or the reason to drop. */
outline int judge_arriving(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *node)
{
	struct iphdr ip;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return judge_ipv6(skb, INGRESS);
	if (is_tagged_for_nobody(skb))
		return DROP_UNSUPPORTED_L2;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	int r = load_address(skb, p, &ip);
	if (r)
		return r;
	if (endpoint_of(p->destination) || !is_of_node(skb, p->destination)) {
		pass_on(skb, BY_OUTSIDE);
		return 0;
	}
	r = load_ports(skb, p, &ip);
	if (r || (p->protocol == PROTO_UDP && p->destination_port == CONFIG.vxlan_port))
		return r;
	p->source_identity = identity_outside(p->source);
	trace_arrival(skb, p, POINT_FROM_NETWORK);
	return enter_node(skb, p, node);
}

/* Goes out. 0, or the reason to drop. */
outline int judge_leaving(struct __sk_buff *skb, struct packet *p, const struct endpoint_value *node)
{
	struct iphdr ip;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return judge_ipv6(skb, EGRESS);
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return 0;
	int r = load_address(skb, p, &ip);
	if (r)
		return r;
	if (skb->ingress_ifindex && !is_of_node(skb, p->source))
		return 0;
	r = load_ports(skb, p, &ip);
	if (r)
		return r;
	struct ipcache_value *to = ipcache_lookup(p->destination);
	p->destination_identity = to ? to->identity : ID_WORLD;
	return leave_node(skb, p, node, !skb->ingress_ifindex);
}
