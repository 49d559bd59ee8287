/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tc program on the overlay device: packets of other nodes, with the sender's identity as VNI. VXLAN proves nothing,
 * so a packet is believed only as far as its outer source may speak: a known node, for identities and pods of its own
 * cluster. IPv6 is dropped with its own reason. */
#include "deliver.h"

inlined int is_node(const struct ipcache_value *v)
{
	return v && (v->identity == ID_REMOTE_NODE || v->identity == ID_KUBE_APISERVER);
}

/* 0, or the reason to drop. */
outline int check_sender(struct packet *p, __be32 outer_source)
{
	struct ipcache_value *node = ipcache_lookup(outer_source);
	__u32 identity = p->source_identity;
	if (identity >> IDENTITY_BITS || identity == ID_HOST)
		return DROP_INVALID_IDENTITY;
	if (!is_node(node))
		return DROP_UNKNOWN_SENDER;
	__u16 cluster = node->cluster_id;
	if (identity >= ID_FIRST_CLUSTER_SCOPED && cluster_of(identity) != cluster)
		return DROP_INVALID_CLUSTER;
	if (endpoint_of(p->source))
		return DROP_INVALID_SOURCE;	/* one of our own pods cannot come from outside */
	struct ipcache_value *inner = ipcache_lookup(p->source);
	if (inner && inner->identity >= ID_FIRST_CLUSTER_SCOPED && !(inner->identity >> IDENTITY_BITS) &&
	    cluster_of(inner->identity) != cluster)
		return DROP_INVALID_SOURCE;
	return 0;
}

SEC("tc")
int mesh_from_overlay(struct __sk_buff *skb)
{
	struct packet p = { .direction = INGRESS };
	struct bpf_tunnel_key key = {};
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0) < 0)
		return drop(skb, &p, DROP_NO_TUNNEL_KEY);
	p.source_identity = key.tunnel_id;
	int r = parse(skb, &p);
	if (r == PARSED_NEIGHBOUR || r == PARSED_IPV6)
		return drop(skb, &p, DROP_UNSUPPORTED_L3);
	if (!r)
		r = check_sender(&p, bpf_htonl(key.remote_ipv4));
	if (r)
		return drop(skb, &p, r);
	struct endpoint_value *to = endpoint_of(p.destination);
	return to ? deliver(skb, &p, to, DELIVER) : drop(skb, &p, DROP_UNROUTABLE);
}

char _license[] SEC("license") = "Dual BSD/GPL";
