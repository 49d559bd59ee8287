/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How a packet's facts are read from a frame, and what its fragments have in common. */
#pragma once
#include "transport.h"

/* What parse answers beside drop reasons (>= 128). */
enum parsed { PARSED_IPV4 = 0, PARSED_IPV6 = 1, PARSED_NEIGHBOUR = 2 };

inlined void fragment_key_of(struct fragment_key *key, const struct packet *p, __be16 id)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->source = p->source;
	key->destination = p->destination;
	key->id = id;
	key->protocol = p->protocol;
}

/* A later fragment has the ports of the first. */
outline int later_fragment(struct packet *p, __be16 id)
{
	struct fragment_key key;
	fragment_key_of(&key, p, id);
	struct fragment_value *known = bpf_map_lookup_elem(&mesh_fragments, &key);
	if (!known)
		return DROP_FIRST_FRAGMENT_MISSING;
	p->source_port = known->source_port;
	p->destination_port = known->destination_port;
	p->policy_port = known->policy_port;
	p->kind |= KIND_LATER_FRAGMENT;
	return 0;
}

/* Only for a packet whose source is its sender's: nobody says which ports the fragments of another have. */
outline int remember_ports(struct __sk_buff *skb, const struct packet *p)
{
	struct fragment_value ports = { p->source_port, p->destination_port, p->policy_port, 0 };
	struct fragment_key key;
	__be16 id;
	if (!(p->kind & KIND_FIRST_FRAGMENT) ||
	    bpf_skb_load_bytes(skb, L3_OFFSET + offsetof(struct iphdr, id), &id, sizeof(id)) < 0)
		return 0;
	fragment_key_of(&key, p, id);
	bpf_map_update_elem(&mesh_fragments, &key, &ports, BPF_ANY);
	return 0;
}

/* PARSED_*, or a drop reason. Everything later relies on what is checked here: a whole IPv4 header, a length that
 * covers it, and transport ports that were really there. */
outline int parse(struct __sk_buff *skb, struct packet *p)
{
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return PARSED_NEIGHBOUR;
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return PARSED_IPV6;
	if (skb->protocol != bpf_htons(ETH_P_IP))
		return DROP_UNSUPPORTED_L2;
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + L3_OFFSET;
	if ((void *)(ip + 1) > end) {
		if (bpf_skb_pull_data(skb, L3_OFFSET + sizeof(*ip)))
			return DROP_INVALID_PACKET;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		ip = data + L3_OFFSET;
		if ((void *)(ip + 1) > end)
			return DROP_INVALID_PACKET;
	}
	__u32 header = ip->ihl * 4, total = bpf_ntohs(ip->tot_len);
	/* total 0 is a GSO packet above 64 KiB */
	if (ip->version != 4 || header < sizeof(*ip) || (total && total < header) || total + L3_OFFSET > skb->len)
		return DROP_INVALID_PACKET;
	p->source = ip->saddr;
	p->destination = ip->daddr;
	p->protocol = ip->protocol;
	p->l4_offset = L3_OFFSET + header;
	p->now = bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
	__be16 id = ip->id, fragment = ip->frag_off;
	if (fragment & bpf_htons(0x1fff))
		return later_fragment(p, id);
	if (fragment & bpf_htons(0x2000))
		p->kind |= KIND_FIRST_FRAGMENT;
	return parse_transport(skb, p, total ? L3_OFFSET + total : skb->len);
}
