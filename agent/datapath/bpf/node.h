/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The node as an endpoint: host policies judge what comes to its own addresses, and what its own processes send. What it
 * only passes on is not judged, but remembered where it goes out under an address of the node, so that answers come back.
 * Never judged: ARP and what is no IP, ICMP errors, our overlay, neighbour discovery and DHCPv6. Other IPv6 of the node is
 * dropped. */
#pragma once
#include "heartbeat.h"
#include "node_side.h"

#define PROTO_ICMPV6 58
#define HOP_OPTIONS_BYTES 8
#define MLD2_REPORT 143
#define FAMILY_INET 2
#define FAMILY_INET6 10
#define MULTICAST 0xe	/* first four bits */

/* What is not the node's for all its routes say may be led to a process of the node by its stack, which translates the
 * addresses of Services: mesh_delivered judges it then. skb->priority says so until the packet is forwarded. */
inlined void pass_on(struct __sk_buff *skb, __u32 by)
{
	skb->priority = PASSED_ON | by;
}

/* It is judged already, whatever priority its sender gave it. */
inlined void keep(struct __sk_buff *skb)
{
	if ((skb->priority & ~BY_ANYBODY) == PASSED_ON)
		skb->priority = PASSED_ON;
}

/* What is not passed on is kept, also where there is no route, or the device passes nothing on. */
inlined int is_kept(long r)
{
	return r < 0 || r == BPF_FIB_LKUP_RET_NOT_FWDED || r == BPF_FIB_LKUP_RET_FWD_DISABLED;
}

outline int is_of_node(struct __sk_buff *skb, __be32 address)
{
	struct bpf_fib_lookup fib = { .family = FAMILY_INET, .ifindex = skb->ifindex, .ipv4_dst = address };
	if (address == CONFIG.node_address || bpf_ntohl(address) >> 28 == MULTICAST || !~address)
		return 1;	/* also what is for everybody */
	return is_kept(bpf_fib_lookup(skb, &fib, sizeof(fib), 0));
}

/* Without these a neighbour is not found, and an address not got. What tells switches of groups (MLD) comes behind a
 * hop-by-hop header with one option. */
inlined int keeps_link_up(struct __sk_buff *skb, const struct ipv6hdr *ip)
{
	struct { __u8 type, code; __be16 port; } head;	/* of ICMPv6, or of UDP with its destination port */
	struct { __u8 next, length; } options;
	__u32 offset = sizeof(*ip);
	__u8 next = ip->nexthdr;
	if (next == IPPROTO_HOPOPTS) {
		if (bpf_skb_load_bytes_relative(skb, offset, &options, sizeof(options), BPF_HDR_START_NET) < 0 ||
		    options.length)
			return 0;
		next = options.next;
		offset += HOP_OPTIONS_BYTES;
	}
	if (bpf_skb_load_bytes_relative(skb, offset, &head, sizeof(head), BPF_HDR_START_NET) < 0)
		return 0;
	if (next == PROTO_ICMPV6)
		return head.type <= 4 || (head.type >= 130 && head.type <= 137) || head.type == MLD2_REPORT;
	return next == PROTO_UDP && (head.port == bpf_htons(546) || head.port == bpf_htons(547));
}

/* 0, or the reason to drop. */
outline int judge_ipv6(struct __sk_buff *skb, int direction)
{
	struct bpf_fib_lookup fib = { .family = FAMILY_INET6, .ifindex = skb->ifindex };
	struct ipv6hdr ip;
	if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) < 0)
		return DROP_INVALID_PACKET;
	if (keeps_link_up(skb, &ip))
		return 0;
	if (direction == EGRESS)
		return skb->ingress_ifindex ? 0 : DROP_UNSUPPORTED_L3;
	__builtin_memcpy(fib.ipv6_dst, &ip.daddr, 16);
	if (ip.daddr.in6_u.u6_addr8[0] != 0xff && !is_kept(bpf_fib_lookup(skb, &fib, sizeof(fib), 0))) {
		pass_on(skb, BY_ANYBODY);
		return 0;
	}
	return DROP_UNSUPPORTED_L3;
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
