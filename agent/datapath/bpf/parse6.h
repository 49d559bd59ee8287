/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a packet's facts are read from a frame of IPv6, and what its fragments have in common. */
#pragma once
#include "transport.h"
#include <linux/ipv6.h>

#define MOST_EXTENSIONS 6
enum extension { HOP_OPTIONS = 0, ROUTING_HEADER = 43, FRAGMENT_HEADER = 44, DESTINATION_OPTIONS = 60 };

/* Fragments have in common who sends them to whom, and their number: later ones do not say which protocol they are of. */
inlined void fragment_key_of(struct fragment_key *key, const struct packet *p)
{
	*key = (struct fragment_key){ .source = p->source, .destination = p->destination, .id = p->fragment_id };
}

/* A later fragment has the protocol and the ports of the first. */
outline int later_fragment(struct packet *p)
{
	struct fragment_key key;
	fragment_key_of(&key, p);
	struct fragment_value *known = bpf_map_lookup_elem(&mesh_fragments, &key);
	if (!known)
		return DROP_FIRST_FRAGMENT_MISSING;
	p->source_port = known->source_port;
	p->destination_port = known->destination_port;
	p->policy_port = known->policy_port;
	p->protocol = known->protocol;
	p->kind |= KIND_LATER_FRAGMENT;
	return 0;
}

/* Only for a packet whose source is its sender's: nobody says which ports the fragments of another have. */
outline int remember_ports(struct __sk_buff *skb, const struct packet *p)
{
	struct fragment_value ports = { p->source_port, p->destination_port, p->policy_port, p->protocol };
	struct fragment_key key;
	if (!skb || !(p->kind & KIND_FIRST_FRAGMENT))
		return 0;
	fragment_key_of(&key, p);
	bpf_map_update_elem(&mesh_fragments, &key, &ports, BPF_ANY);
	return 0;
}

/* Past the headers before the transport's, as far as they do not lead elsewhere: one with more segments to visit names another
 * receiver than the packet's destination. Each ends within the packet: what a frame has behind `end`, the receiver cuts off, and
 * would read in a later fragment. No fragment has fragments. 0, a drop reason, or -1 when the packet is a later fragment. */
inlined int skip_extensions(struct __sk_buff *skb, struct packet *p, __u8 next, __u32 end)
{
	struct { __u8 next, length; __be16 fragment; __be32 id; } head;
	__u32 offset = L3_OFFSET + sizeof(struct ipv6hdr);
	int is_fragment = 0;
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		if (next != HOP_OPTIONS && next != ROUTING_HEADER && next != FRAGMENT_HEADER && next != DESTINATION_OPTIONS) {
			if (offset > end)
				return DROP_INVALID_PACKET;
			p->protocol = next;
			p->l4_offset = offset;
			return 0;
		}
		if (offset + sizeof(head) > end || bpf_skb_load_bytes(skb, offset, &head, sizeof(head)) < 0)
			return DROP_INVALID_PACKET;
		if (next == ROUTING_HEADER && head.fragment & bpf_htons(0xff))	/* segments left, in this header */
			return DROP_INVALID_EXTENSION;
		if (next == FRAGMENT_HEADER) {
			if (is_fragment)
				return DROP_INVALID_EXTENSION;
			is_fragment = 1;
			p->fragment_id = head.id;
			if (head.fragment & bpf_htons(0xfff8))
				return -1;
			if (head.fragment & bpf_htons(1))
				p->kind |= KIND_FIRST_FRAGMENT;
		}
		offset += next == FRAGMENT_HEADER ? 8 : (head.length + 1) * 8;
		next = head.next;
	}
	return DROP_INVALID_EXTENSION;
}

/* 0, or a drop reason. Everything later relies on what is checked here: a whole IPv6 header, a length that covers it, and
 * transport ports that were really there. */
outline int parse(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;
	if (bpf_skb_load_bytes(skb, L3_OFFSET, &ip, sizeof(ip)) < 0)
		return DROP_INVALID_PACKET;
	__builtin_memcpy(&p->source, &ip.saddr, sizeof(p->source));
	__builtin_memcpy(&p->destination, &ip.daddr, sizeof(p->destination));
	p->now = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	/* length 0 is a GSO packet above 64 KiB */
	__u32 length = bpf_ntohs(ip.payload_len), end = length ? L3_OFFSET + sizeof(ip) + length : skb->len;
	if (ip.version != 6 || end > skb->len)
		return DROP_INVALID_PACKET;
	int r = skip_extensions(skb, p, ip.nexthdr, end);
	if (r < 0)
		return later_fragment(p);
	return r ? r : parse_transport(skb, p, end);
}
