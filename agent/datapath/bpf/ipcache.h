/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is behind an address. */
#pragma once
#include "packet.h"

#define IPCACHE_BASE_BITS 32

outline struct ipcache_value *ipcache_find(address_argument given)
{
	ip_address address = value_of(given);
	struct ipcache_key key = { .prefix_length = IPCACHE_BASE_BITS + 8 * sizeof(address), .family = IPCACHE_FAMILY };
	__builtin_memcpy(key.address, &address, sizeof(address));
	return bpf_map_lookup_elem(&mesh_ipcache, &key);
}

#define ipcache_lookup(address) ipcache_find(as_argument(address))	/* of an address that has a place: no copy is made */

/* The addresses of both families are in one map. One of IPv6 that ends in 96 zero bits has the key of one of IPv4. */
outline struct endpoint_value *endpoint_find(address_argument given)
{
	ip_address address = value_of(given);
	struct address16 key = {};
	__builtin_memcpy(key.bytes, &address, sizeof(address));
#ifdef IPV6_PACKETS
	if (!(address.words[1] | address.words[2] | address.words[3]))
		return 0;
#endif
	return bpf_map_lookup_elem(&mesh_ep_address, &key);
}

#define endpoint_of(address) endpoint_find(as_argument(address))

/* Nodes send to each other by IPv4, whatever is inside. */
inlined struct ipcache_value *node_lookup(__be32 address)
{
#ifdef IPV6_PACKETS
	struct ipcache_key key = { .prefix_length = IPCACHE_BASE_BITS + 8 * sizeof(address), .family = 1 };
	__builtin_memcpy(key.address, &address, sizeof(address));
	return bpf_map_lookup_elem(&mesh_ipcache, &key);
#else
	return ipcache_lookup(address);
#endif
}

/* Nodes that policies tell apart by labels have numbers of this node's own, which no packet carries. */
inlined int is_labelled_node(const struct ipcache_value *v)
{
	return v && v->identity >> IDENTITY_BITS == SCOPE_OF_NODES;
}

inlined int is_node(const struct ipcache_value *v)
{
	return v && (v->identity == ID_REMOTE_NODE || v->identity == ID_KUBE_APISERVER || is_labelled_node(v));
}

#ifndef IPV6_PACKETS
inlined int is_own_address(__be32 address)
{
	struct ipcache_value *v = address == CONFIG.node_address ? 0 : ipcache_lookup(address);
	return address == CONFIG.node_address || (v && v->identity == ID_HOST);
}
#endif

inlined __be32 tunnel_of(const struct ipcache_value *v)
{
	__be32 tunnel;
	__builtin_memcpy(&tunnel, v->tunnel, 4);
	return tunnel;
}

inlined __be32 address_of(const struct endpoint_value *v)
{
	__be32 address;
	__builtin_memcpy(&address, v->address, 4);
	return address;
}

inlined int has_mac(const struct endpoint_value *v)
{
	const __u16 *words = (const void *)v->mac;
	return words[0] | words[1] | words[2];
}

inlined __u32 cluster_of(__u32 identity)
{
	return identity >> (CONFIG.cluster_shift & 31);
}

/* Who sent what came from outside: nobody of this node. */
inlined __u32 identity_outside(ip_address source)
{
	struct ipcache_value *from = endpoint_of(source) ? 0 : ipcache_lookup(source);
	return from && from->identity != ID_HOST ? from->identity : ID_OF_WORLD;
}
