/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Connections that a proxy of this node sees first. A packet is handed to the proxy's socket where it is received; rules of
 * the node (proxy_routes.py) deliver what has MARK_TO_PROXY locally. The sockets of a proxy are transparent: their packets
 * have the addresses of the two ends and say by mark what they are, which only processes with CAP_NET_ADMIN in the
 * node's namespace can say. Pods cannot: a packet loses its mark when it enters another namespace. */
#pragma once
#include "ct.h"

/* skb->mark within PROXY_MARKS; MARK_TO_PROXY may have the proxy's port in the upper half. */
#define PROXY_MARKS 0x0f00
#define PROXY_PORT_SHIFT 16
enum proxy_mark {
	MARK_TO_PROXY = 0x0200,
	MARK_UNTRACKED = 0x1000,	/* beside it: the stack does not track the packet (untracked.py) */
	MARK_EGRESS = 0x2000,	/* beside it and a port: of the sender's policy, on its way to mesh_from_overlay */
	MARK_EGRESS_REPLY = 0x0a00,	/* to the pod whose egress the proxy took */
	MARK_INGRESS_REPLY = 0x0b00,	/* to whoever opened a connection to a pod whose ingress the proxy took */
	MARK_EGRESS_UPSTREAM = 0x0c00,	/* to the server, in the name of the pod of this node that asked */
	MARK_INGRESS_UPSTREAM = 0x0d00,	/* to the server on this node, in the name of whoever asked */
};
/* In place of a proxy's port: a connection that the proxy opened, so that there is a socket or nobody. */
#define ONLY_ITS_SOCKET 0xffff
#define PROXY_ADDRESS bpf_htonl(0x7f000001)

inlined __u32 proxy_mark(const struct __sk_buff *skb)
{
	return skb->mark & PROXY_MARKS;
}

inlined int is_by_proxy(const struct __sk_buff *skb)
{
	__u32 mark = proxy_mark(skb);
	return mark >= MARK_EGRESS_REPLY && mark <= MARK_INGRESS_UPSTREAM;
}

/* Whom the proxy's own packet is for, and whether policy has been asked. */
inlined void note_proxy(const struct __sk_buff *skb, struct packet *p)
{
	__u32 mark = proxy_mark(skb);
	if (mark == MARK_EGRESS_UPSTREAM)
		p->by_proxy = BY_PROXY;
	else if (mark == MARK_INGRESS_UPSTREAM)
		p->by_proxy = BY_PROXY | BY_PROXY_JUDGED;
}

/* The packet's own two ends, as a socket that it is for has them the other way round. */
inlined void ends_of(struct bpf_sock_tuple *ends, const struct packet *p)
{
	__builtin_memset(ends, 0, sizeof(*ends));
	ends->ipv4.saddr = p->source;
	ends->ipv4.daddr = p->destination;
	ends->ipv4.sport = p->source_port;
	ends->ipv4.dport = p->destination_port;
}

/* Has the socket both ends, so that it takes nothing of anybody else? One of UDP that is not connected is closed. */
inlined int is_connected(const struct bpf_sock *found)
{
	return found->state != BPF_TCP_LISTEN && found->state != BPF_TCP_CLOSE;
}

/* Is it a socket that the proxy opened a connection with? */
inlined int is_asking(const struct bpf_sock *found)
{
	return is_connected(found) && (found->mark & PROXY_MARKS) == MARK_EGRESS_UPSTREAM;
}

/* One that is ended is the stack's to remember, without a mark: where its ends are a pod's and somebody else's, only a
 * proxy's can have had them. */
inlined int is_of_upstream_connection(struct __sk_buff *skb, struct bpf_sock_tuple *ends)
{
	struct bpf_sock *found = bpf_skc_lookup_tcp(skb, ends, sizeof(ends->ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	struct bpf_sock *open = bpf_sk_fullsock(found);
	int is_upstream = open ? is_asking(open) : found->state == BPF_TCP_TIME_WAIT;
	bpf_sk_release(found);
	return is_upstream;
}

/* Did the proxy open a connection in the name of the packet's receiver, which this packet belongs to? */
apart int is_of_upstream(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple ends;
	if (!p || (p->protocol != PROTO_TCP && p->protocol != PROTO_UDP))
		return 0;
	ends_of(&ends, p);
	if (p->protocol == PROTO_TCP)
		return is_of_upstream_connection(skb, &ends);
	struct bpf_sock *found = bpf_sk_lookup_udp(skb, &ends, sizeof(ends.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return 0;
	int is_upstream = is_asking(found);
	bpf_sk_release(found);
	return is_upstream;
}

/* The socket takes the packet, which is local then. 0, or the reason to drop. */
inlined int hand_over(struct __sk_buff *skb, struct bpf_sock *found, int is_of_egress)
{
	long r = bpf_sk_assign(skb, found, 0);
	bpf_sk_release(found);
	if (r)
		return DROP_NOT_ASSIGNED;
	skb->mark = MARK_TO_PROXY | (is_of_egress ? MARK_UNTRACKED : 0);
	bpf_skb_change_type(skb, 0);	/* for this host, whatever MAC it was sent to */
	return 0;
}

/* Any process of the node may listen on a port; a proxy's socket has the mark of its direction. */
inlined int is_proxys(const struct bpf_sock *found, const struct packet *p)
{
	return (found->mark & PROXY_MARKS) == (p->direction == INGRESS ? MARK_INGRESS_REPLY : MARK_EGRESS_REPLY);
}

/* The socket that asked in the receiver's name, else the one at the port. */
inlined int assign_datagram(struct __sk_buff *skb, const struct packet *p, __be16 port)
{
	struct bpf_sock_tuple ends;
	ends_of(&ends, p);
	struct bpf_sock *found = bpf_sk_lookup_udp(skb, &ends, sizeof(ends.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (found) {
		if (is_asking(found))
			return hand_over(skb, found, p->direction == INGRESS);
		bpf_sk_release(found);
	}
	if (port == ONLY_ITS_SOCKET)
		return DROP_NO_SOCKET;
	__builtin_memset(&ends, 0, sizeof(ends));
	ends.ipv4.daddr = PROXY_ADDRESS;
	ends.ipv4.dport = port;
	found = bpf_sk_lookup_udp(skb, &ends, sizeof(ends.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return DROP_NO_SOCKET;
	if (is_proxys(found, p))
		return hand_over(skb, found, p->direction == EGRESS);
	bpf_sk_release(found);
	return DROP_NO_SOCKET;
}

/* A connection that the stack has, also one that it is about to forget: that one answers a packet that opens another one with
 * an acknowledgement, which the client resets, so that its next attempt finds nobody. The listener may not take it instead: the stack
 * drops what would be two sockets of one connection (since Linux 6.10, and in older ones that are kept up). */
inlined int assign_connection(struct __sk_buff *skb, const struct packet *p, __be16 port)
{
	struct bpf_sock_tuple ends;
	ends_of(&ends, p);
	struct bpf_sock *found = bpf_skc_lookup_tcp(skb, &ends, sizeof(ends.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (found) {
		if (found->state != BPF_TCP_LISTEN)
			return hand_over(skb, found, (p->direction == EGRESS) == (port != ONLY_ITS_SOCKET));
		bpf_sk_release(found);
	}
	if (port == ONLY_ITS_SOCKET)
		return DROP_NO_SOCKET;
	__builtin_memset(&ends, 0, sizeof(ends));
	ends.ipv4.daddr = PROXY_ADDRESS;
	ends.ipv4.dport = port;
	found = bpf_sk_lookup_tcp(skb, &ends, sizeof(ends.ipv4), BPF_F_CURRENT_NETNS, 0);
	if (!found)
		return DROP_NO_SOCKET;
	if (found->state == BPF_TCP_LISTEN && is_proxys(found, p))
		return hand_over(skb, found, p->direction == EGRESS);
	bpf_sk_release(found);
	return DROP_NO_SOCKET;
}

/* The packet's socket takes it; where there is none, the one at the port does. Only where packets are received. 0, or the
 * reason to drop. */
apart int assign_proxy(struct __sk_buff *skb, const struct packet *p, __be16 port)
{
	if (!p || p->kind & (KIND_FIRST_FRAGMENT | KIND_LATER_FRAGMENT))
		return DROP_PROXY;
	if (p->protocol == PROTO_UDP)
		return assign_datagram(skb, p, port);
	return p->protocol == PROTO_TCP ? assign_connection(skb, p, port) : DROP_PROXY;
}

/* The proxy begins something in the name of the pod with this address and port. */
inlined void begin_as_pod(const struct __sk_buff *skb, const struct packet *p, __be32 pod, __be16 port)
{
	struct conntrack_key key;
	if (proxy_mark(skb) != MARK_EGRESS_UPSTREAM || (p->protocol != PROTO_UDP && !opens_connection(p)))
		return;
	ct_key_of(&key, &pod, &p->destination, port, p->destination_port, p->protocol, CT_EGRESS);
	ct_forget_own(&key, p);
}

/* The verdict on a packet for the proxy at p->proxy_port. One that leaves through an interface comes in through the overlay's,
 * since sockets take only what is received, and there the node does not ask which way its source is (proxy_routes.py). So does
 * what a bridge would get: where it asks the rules of the stack (br_netfilter) it takes the socket from the packet. `port`: of a pod
 * that the packet comes from, or goes to. */
apart int to_proxy(struct __sk_buff *skb, const struct packet *p, const struct endpoint_value *port, int is_leaving)
{
	if (!p)
		return TC_ACT_SHOT;
	trace(skb, p, POINT_PROXY);
	if (is_leaving || (port && port->flags & BRIDGE_PORT)) {
		skb->mark = (__u32)p->proxy_port << PROXY_PORT_SHIFT | MARK_TO_PROXY | (is_leaving ? MARK_UNTRACKED : 0) |
			    (p->direction == EGRESS ? MARK_EGRESS : 0);
		return bpf_redirect(CONFIG.overlay_ifindex, BPF_F_INGRESS);
	}
	int r = assign_proxy(skb, p, p->proxy_port);
	if (r)
		return drop(skb, p, r);
	count(TO_PROXY, p->direction, skb->len);
	return TC_ACT_OK;
}
