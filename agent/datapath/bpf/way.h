/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the programs of a pod's interface decide the same way for both families: whose a connection is, and which way it goes. */
#pragma once
#include "deliver.h"
#include "heartbeat.h"
#include "node_address.h"

inlined struct endpoint_value *endpoint_here(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	return bpf_map_lookup_elem(&mesh_ep_ifindex, &ifindex);
}

/* A pod speaks with its own MAC, once that is known. 0, or the reason to drop. */
inlined int check_mac(struct __sk_buff *skb, const struct endpoint_value *from)
{
	struct ethhdr *frame = (void *)(long)skb->data;
	if ((void *)(frame + 1) > (void *)(long)skb->data_end)
		return DROP_INVALID_PACKET;
	return is_mac_of(from, frame->h_source) ? 0 : DROP_INVALID_MAC;
}

/* Is it an answer to somebody who reached this pod? Then it was judged when it was opened. */
inlined int is_answer(struct __sk_buff *skb, struct packet *p, int is_likely)
{
	struct conntrack_key key;
	if (opens_connection(p))
		return 0;
	ct_key_reverse(&key, p, CT_INGRESS);
	struct conntrack_value *v = is_likely ? ct_lookup_likely(&key, p) : ct_lookup(&key, p);
	if (!v)
		return 0;
	p->conntrack_flags = v->flags & CT_WAY;
	p->proxy_port = v->flags & CT_BY_PROXY ? ONLY_ITS_SOCKET : 0;
	touch_reply(skb, p, v);
	return 1;
}

/* The same of what is looked for last, with a key that takes no room on its caller's stack. */
outline int is_late_answer(struct __sk_buff *skb, struct packet *p)
{
	return is_answer(skb, p, 0);
}

struct way { struct endpoint_value *local; struct ipcache_value *remote; };

inlined void find_way(struct packet *p, struct way *w)
{
	w->local = endpoint_of(p->destination);
	w->remote = w->local ? 0 : ipcache_lookup(p->destination);
	p->destination_identity = w->local ? w->local->identity : w->remote ? w->remote->identity : ID_OF_WORLD;
}

/* Connections older than the programs stay with the stack that knows them, unless only we know the way; so do new ones
 * while nobody attends to the maps. */
inlined void keep_old_path(struct packet *p, const struct way *w, const struct conntrack_value *v)
{
	if (v || p->frontend_port)
		return;
	int is_old = is_within_connection(p);
	if (!is_old && !(p->kind & KIND_UNATTENDED) && !is_unattended(p))
		return;
	if (!is_old)
		count(FLOW_UNATTENDED, EGRESS, 0);
	if (w->local || (w->remote && w->remote->cluster_id == CONFIG.cluster_id && (is_old || !tunnel_of(w->remote))))
		p->conntrack_flags |= CT_VIA_STACK;
}

/* An address behind a tunnel comes through it, and a pod of this node not from outside. Connections of our own cluster
 * that are older than the programs may go on by the routes of its CNI. 0, or the reason to drop. */
inlined int check_way(struct __sk_buff *skb, const struct packet *p, const struct endpoint_value *local,
		      const struct ipcache_value *remote)
{
	if (local)
		return CONFIG.underlay_ifindex && skb->ingress_ifindex == CONFIG.underlay_ifindex ? DROP_NOT_BY_TUNNEL : 0;
	if (!remote || !tunnel_of(remote))
		return 0;
	if (remote->cluster_id == CONFIG.cluster_id && p->protocol == PROTO_TCP && !opens_connection(p))
		return 0;
	return DROP_NOT_BY_TUNNEL;
}

/* Has no record of a pod or node this address? */
inlined int is_nobody(__u32 identity)
{
	return identity == ID_UNKNOWN || identity == ID_OF_WORLD || identity >> IDENTITY_BITS == SCOPE_OF_NETWORKS;
}

/* Who sent what the node's stack brings to a pod: by address, as far as it can be believed. */
inlined __u32 identity_by_stack(struct __sk_buff *skb, const struct packet *p, const struct endpoint_value *local,
				const struct ipcache_value *remote)
{
	__u32 identity = local ? local->identity : remote ? remote->identity : ID_OF_WORLD;
	if (identity == ID_HOST && skb->ingress_ifindex)
		return ID_OF_WORLD;	/* only passed on under the node's address: it may be anybody's */
	if (!skb->ingress_ifindex && is_nobody(identity) && is_of_node(skb, p->source))
		return ID_HOST;	/* from the address by which the node is the pods' gateway */
	return identity;
}
