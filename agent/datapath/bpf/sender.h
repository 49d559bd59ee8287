/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* How far the sender of a packet from the overlay is believed. */
#pragma once
#include "ipcache.h"

/* 0, or the reason to drop. */
outline int check_sender(struct packet *p, __be32 outer_source)
{
	struct ipcache_value *node = node_lookup(outer_source);
	__u32 identity = p->source_identity;
	if (identity >> IDENTITY_BITS || identity == ID_HOST)
		return DROP_INVALID_IDENTITY;
	if (!is_node(node))
		return DROP_UNKNOWN_SENDER;
	__u16 cluster = node->cluster_id;
	if (identity >= ID_FIRST_CLUSTER_SCOPED && cluster_of(identity) != cluster)
		return DROP_INVALID_CLUSTER;
	if (identity == ID_KUBE_APISERVER && cluster != CONFIG.cluster_id)
		return DROP_INVALID_IDENTITY;	/* that is ours */
	struct ipcache_value *inner = ipcache_lookup(p->source);
	if (!inner || inner->cluster_id != cluster || inner->identity == ID_HOST || endpoint_of(p->source))
		return DROP_FOREIGN_SOURCE;	/* also a pod of this node: it cannot come from outside */
	return identity == ID_REMOTE_NODE && !is_node(inner) ? DROP_INVALID_IDENTITY : 0;
}

/* Which node it is, a packet does not carry: its source says that. */
inlined void tell_nodes_apart(struct packet *p)
{
	if (p->source_identity != ID_REMOTE_NODE && p->source_identity != ID_KUBE_APISERVER)
		return;
	struct ipcache_value *node = ipcache_lookup(p->source);
	if (is_labelled_node(node))
		p->source_identity = node->identity;
}
