/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes the device below the overlay, as far as it is the node's own. Offsets count from the network header: the
 * device may have no link header. */
#pragma once
#include "node.h"

#define VLAN_ID 0xfff

inlined int load_address(struct __sk_buff *skb, struct packet *p, struct iphdr *ip)
{
	if (bpf_skb_load_bytes_relative(skb, 0, ip, sizeof(*ip), BPF_HDR_START_NET) < 0 || ip->version != 4 || ip->ihl < 5)
		return DROP_INVALID_PACKET;
	p->source = ip->saddr;
	p->destination = ip->daddr;
	p->protocol = ip->protocol;
	p->now = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	return 0;
}

inlined int load_transport(struct __sk_buff *skb, struct packet *p, __u32 offset)
{
	struct { __be16 source, destination; __be32 sequence, acknowledged; __u8 offset, flags; } head = {};
	struct icmp_header icmp;
	int is_tcp = p->protocol == PROTO_TCP;
	if (p->protocol == PROTO_ICMP) {
		if (bpf_skb_load_bytes_relative(skb, offset, &icmp, sizeof(icmp), BPF_HDR_START_NET) < 0)
			return DROP_INVALID_PACKET;
		take_icmp(p, &icmp);
		return 0;
	}
	if (!is_tcp && p->protocol != PROTO_UDP && p->protocol != PROTO_SCTP)
		return 0;
	if (bpf_skb_load_bytes_relative(skb, offset, &head, is_tcp ? 14 : 4, BPF_HDR_START_NET) < 0)
		return DROP_INVALID_PACKET;
	p->source_port = head.source;
	p->destination_port = p->policy_port = head.destination;
	p->tcp_flags = head.flags;
	return 0;
}

/* 0, or the reason to drop. */
outline int load_ports(struct __sk_buff *skb, struct packet *p, const struct iphdr *ip)
{
	if (ip->frag_off & bpf_htons(0x1fff))
		return later_fragment(p, ip->id);
	int r = load_transport(skb, p, ip->ihl * 4);
	if (r || !(ip->frag_off & bpf_htons(0x2000)))
		return r;
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
	if (endpoint_of(p->destination) || !is_of_node(skb, p->destination))
		return 0;
	r = load_ports(skb, p, &ip);
	if (r || (p->protocol == PROTO_UDP && p->destination_port == CONFIG.vxlan_port))
		return r;
	struct ipcache_value *from = endpoint_of(p->source) ? 0 : ipcache_lookup(p->source);
	/* nobody of this node comes from outside */
	p->source_identity = from && from->identity != ID_HOST ? from->identity : ID_WORLD;
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
