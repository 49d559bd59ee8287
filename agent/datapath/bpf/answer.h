/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that end here and whose sender is told: the packet itself becomes the answer. It is counted as dropped. */
#pragma once
#include "events.h"
#include "mark.h"
#include "nat.h"
#ifdef IPV6_PACKETS
#include "message6.h"
#else
#include "message4.h"
#endif

#define TUNNEL_TTL 64

/* Into the pod whose interface the packet came from. */
inlined int back_to_pod(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex;
	if (CONFIG.flags & CONFIG_PEER_REDIRECT)
		return bpf_redirect_peer(ifindex, 0);
	set_mark(skb);
	return bpf_redirect(ifindex, 0);
}

/* Answers quote what the pod sent, not what became of it. Options, later fragments and errors get no answer. */
inlined int restore_for_answer(struct __sk_buff *skb, struct packet *p)
{
	if (p->l4_offset != L3_OFFSET + IP_HEADER_BYTES || p->kind & (KIND_LATER_FRAGMENT | KIND_ICMP_ERROR))
		return DROP_WRITE;
	if (p->conntrack_flags & CT_LOOPBACK && nat_source(skb, p, as_argument(p->destination), 0))
		return DROP_WRITE;
	return p->frontend_port ? nat_destination(skb, p, as_argument(p->frontend), p->frontend_port) : 0;
}

/* Ends the way of a pod's packet: the pod gets an ICMP error, as if from whom it spoke to. */
apart int tell_pod(struct __sk_buff *skb, struct packet *p, int reason, __u32 what)
{
	if (!p)
		return TC_ACT_SHOT;
	drop(skb, p, reason);
	if (restore_for_answer(skb, p) || become_icmp_error(skb, p, as_argument(p->destination), what))
		return TC_ACT_SHOT;
	return back_to_pod(skb);
}

/* A service that leads nowhere: the pod is refused as by a closed port. */
apart int refuse(struct __sk_buff *skb, struct packet *p, int reason)
{
	if (!p)
		return TC_ACT_SHOT;
	if (p->protocol != PROTO_TCP)
		return tell_pod(skb, p, reason, ICMP_UNREACHABLE << 8 | ICMP_PORT_UNREACHABLE);
	drop(skb, p, reason);
	if (p->tcp_flags & TCP_RST || restore_for_answer(skb, p) || become_reset(skb, p))
		return TC_ACT_SHOT;
	return back_to_pod(skb);
}

#ifdef IPV6_PACKETS
/* A packet that cannot go on. Nobody knows an address of IPv6 from which this node would tell its sender. */
inlined int end_way(struct __sk_buff *skb, struct packet *p, int reason)
{
	return drop(skb, p, reason);
}
#else
/* To the node a packet came from: nobody on it is told more than an address of ours it knows. */
apart int tell_sender(struct __sk_buff *skb, struct packet *p, int reason, __u32 what)
{
	if (!p)
		return TC_ACT_SHOT;
	struct bpf_tunnel_key key = {
		.tunnel_id = ID_REMOTE_NODE, .remote_ipv4 = bpf_ntohl(p->tunnel_source), .tunnel_ttl = TUNNEL_TTL };
	drop(skb, p, reason);
	if (restore_for_answer(skb, p) || become_icmp_error(skb, p, CONFIG.node_address, what) ||
	    bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0)
		return TC_ACT_SHOT;
	set_mark(skb);
	return bpf_redirect(CONFIG.overlay_ifindex, 0);
}

/* The same for a pod that is told by the node. */
apart int tell_pod_as_node(struct __sk_buff *skb, struct packet *p, int reason, __u32 what)
{
	if (!p)
		return TC_ACT_SHOT;
	drop(skb, p, reason);
	if (restore_for_answer(skb, p) || become_icmp_error(skb, p, CONFIG.node_address, what))
		return TC_ACT_SHOT;
	return back_to_pod(skb);
}

/* A packet that cannot go on: dropped, and its sender told if its time ran out. */
inlined int end_way(struct __sk_buff *skb, struct packet *p, int reason)
{
	if (reason != DROP_TTL)
		return drop(skb, p, reason);
	if (p->tunnel_source)
		return tell_sender(skb, p, reason, ICMP_TIME_EXCEEDED << 8);
	return tell_pod_as_node(skb, p, reason, ICMP_TIME_EXCEEDED << 8);
}
#endif
