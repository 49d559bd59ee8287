/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Neighbour discovery of a pod: it passes without a policy, and says nothing about anybody but the pod. */
#pragma once
#include "deliver.h"
#include "node_address.h"

#define MOST_OPTIONS 4
#define DISCOVERY_HOP_LIMIT 255	/* no router passes on a packet that still has it */
#define GROUPS_HOP_LIMIT 1	/* nor one that has this (RFC 3810 5) */
#define BYTES_OF_SOLICITATION 8	/* of a router's, before its options */
#define BYTES_OF_NEIGHBOUR 24	/* of a neighbour's message, with its target */
enum discovery {
	MULTICAST_QUERY = 130, MULTICAST_REPORT = 131, MULTICAST_DONE = 132, ROUTER_SOLICITATION = 133,
	ROUTER_ADVERTISEMENT = 134, NEIGHBOUR_SOLICITATION = 135, NEIGHBOUR_ADVERTISEMENT = 136, REDIRECTION = 137,
	MULTICAST_REPORT2 = 143,
};
enum discovery_option { SOURCE_MAC = 1, TARGET_MAC = 2 };

/* What keeps the link up: nothing of it may be forwarded, since no policy is asked. */
inlined int is_discovery(const struct packet *p)
{
	__u16 type = bpf_ntohs(p->policy_port);
	return p->protocol == PROTO_ICMPV6 && ((type >= MULTICAST_QUERY && type <= REDIRECTION) || type == MULTICAST_REPORT2);
}

inlined int is_link_local(ip_address address)
{
	return (address.words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

inlined int is_of_groups(__u16 type)
{
	return (type >= MULTICAST_QUERY && type <= MULTICAST_DONE) || type == MULTICAST_REPORT2;
}

/* No router passed it on. 0, or the reason to drop; a fragment of discovery is none (RFC 6980). */
inlined int check_link(struct __sk_buff *skb, const struct packet *p, struct ipv6hdr *ip)
{
	if (p->kind & (KIND_FIRST_FRAGMENT | KIND_LATER_FRAGMENT) || bpf_skb_load_bytes(skb, L3_OFFSET, ip, sizeof(*ip)) < 0)
		return DROP_INVALID_PACKET;
	__u8 limit = is_of_groups(bpf_ntohs(p->policy_port)) ? GROUPS_HOP_LIMIT : DISCOVERY_HOP_LIMIT;
	return ip->hop_limit == limit ? 0 : DROP_INVALID_PACKET;
}

/* The same of a packet to a pod. */
outline int check_discovery_of_link(struct __sk_buff *skb, const struct packet *p)
{
	struct ipv6hdr ip;
	return check_link(skb, p, &ip);
}

inlined int is_group_of_link(ip_address address)
{
	return (address.words[0] & bpf_htonl(0xff0f0000)) == bpf_htonl(0xff020000);
}

/* Will the node's stack pass it on to nobody but pods here, who refuse what was passed on? */
outline int is_to_link(struct __sk_buff *skb, const struct packet *p)
{
	if (is_link_local(p->destination) || is_group_of_link(p->destination) || endpoint_of(p->destination))
		return 1;
	struct ipcache_value *node = ipcache_lookup(p->destination);
	return !is_multicast(p->destination) && ((node && node->identity == ID_HOST) || is_of_node(skb, p->destination));
}

/* On a bridge other pods read it: there the address is made of the pod's MAC (RFC 4291, appendix A). On a link with nobody but
 * the node it is the pod's own business. */
inlined int is_own_link_local(const struct endpoint_value *pod, const ip_address *address)
{
	__u8 made[16] = { 0xfe, 0x80, [8] = pod->mac[0] ^ 2, pod->mac[1], pod->mac[2], 0xff, 0xfe, pod->mac[3], pod->mac[4],
			  pod->mac[5] };
	ip_address own;
	__builtin_memcpy(&own, made, sizeof(own));
	return is_link_local(*address) && (!(pod->flags & BRIDGE_PORT) || !has_mac(pod) || is_same(own, *address));
}

/* One that the records give to the pod on this interface, or that of its link. */
outline int is_own(struct __sk_buff *skb, const struct endpoint_value *pod, const ip_address *address)
{
	struct endpoint_value *v = endpoint_find(address);
	return (v && v->ifindex == skb->ifindex) || is_own_link_local(pod, address);
}

/* Options say nothing of a MAC but the pod's. 0, or the reason to drop. */
inlined int check_options(struct __sk_buff *skb, const struct endpoint_value *from, __u32 offset, __u32 end)
{
	struct { __u8 type, length; __u8 mac[6] __attribute__((aligned(2))); } option;
	for (int i = 0; i < MOST_OPTIONS && offset < end; i++) {
		if (bpf_skb_load_bytes(skb, offset, &option, sizeof(option)) < 0 || !option.length)
			return DROP_INVALID_PACKET;
		if ((option.type == SOURCE_MAC || option.type == TARGET_MAC) && !is_mac_of(from, option.mac))
			return DROP_INVALID_MAC;
		offset += option.length * 8;
	}
	return offset == end ? 0 : DROP_INVALID_PACKET;
}

/* Whoever asks whether an address is taken has none yet, and asks about its own. 0, or the reason to drop. */
inlined int check_subject(struct __sk_buff *skb, const struct packet *p, const struct endpoint_value *from, __u16 type)
{
	ip_address target;
	if (type == NEIGHBOUR_SOLICITATION && is_set(p->source))
		return 0;
	if (bpf_skb_load_bytes(skb, p->l4_offset + 8, &target, sizeof(target)) < 0)
		return DROP_INVALID_PACKET;
	return is_own(skb, from, &target) ? 0 : DROP_INVALID_SOURCE;
}

/* 0, or the reason to drop. A pod is no router. */
outline int check_discovery(struct __sk_buff *skb, const struct packet *p, const struct endpoint_value *from)
{
	__u16 type = bpf_ntohs(p->policy_port);
	struct ipv6hdr ip;
	int r = check_link(skb, p, &ip);
	if (r)
		return r;
	if (type == MULTICAST_QUERY || type == ROUTER_ADVERTISEMENT || type == REDIRECTION)
		return DROP_INVALID_SOURCE;
	if (is_set(p->source) && !is_own(skb, from, &p->source))
		return DROP_INVALID_SOURCE;
	if (is_of_groups(type))
		return is_multicast(p->destination) ? 0 : DROP_INVALID_PACKET;
	if (!is_set(p->source) && type == NEIGHBOUR_ADVERTISEMENT)
		return DROP_INVALID_PACKET;
	if (!is_to_link(skb, p))
		return DROP_UNROUTABLE;
	__u32 fixed = type == ROUTER_SOLICITATION ? BYTES_OF_SOLICITATION : BYTES_OF_NEIGHBOUR;
	r = type == ROUTER_SOLICITATION ? 0 : check_subject(skb, p, from, type);
	return r ? r : check_options(skb, from, p->l4_offset + fixed, L3_OFFSET + sizeof(ip) + bpf_ntohs(ip.payload_len));
}
