/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Packets that end here and whose sender is told: the packet itself becomes the answer. It is counted as dropped. */
#pragma once
#include "events.h"
#include "nat.h"

#define ICMP_HOST_UNREACHABLE 1
#define ICMP_PORT_UNREACHABLE 3
#define ICMP_FRAG_NEEDED 4
#define QUOTED (sizeof(struct iphdr) + 8)
#define QUOTED_TCP (sizeof(struct iphdr) + 20)	/* a checksum left to the device bars a shorter packet */
#define TUNNEL_TTL 64

/* Ours, for the next program of ours it meets on this node. A packet loses it when it enters another namespace. */
inlined void set_mark(struct __sk_buff *skb)
{
	skb->mark = (skb->mark & ~CONFIG.mark) | CONFIG.mark;
}

inlined int take_mark(struct __sk_buff *skb)
{
	if (!CONFIG.mark || (skb->mark & CONFIG.mark) != CONFIG.mark)
		return 0;
	skb->mark &= ~CONFIG.mark;
	return 1;
}

struct icmp_error { struct icmp_header icmp; __u8 quote[QUOTED_TCP]; };
struct tcp_header {
	__be16 source, destination; __be32 sequence, acknowledged; __u8 offset, flags; __be16 window; __sum16 check;
	__be16 urgent;
};
struct reset { __be32 source, destination; __be16 protocol, length; struct tcp_header tcp; };	/* pseudo header first */

inlined __u16 fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

inlined int swap_macs(struct __sk_buff *skb)
{
	__u8 macs[12];
	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) < 0 || bpf_skb_store_bytes(skb, 0, macs + 6, 6, 0) < 0)
		return DROP_WRITE;
	return bpf_skb_store_bytes(skb, 6, macs, 6, 0) < 0 ? DROP_WRITE : 0;
}

inlined void answer_header(struct iphdr *ip, __u16 length, __u8 protocol, __be32 from, __be32 to)
{
	*ip = (struct iphdr){ .version = 4, .ihl = 5, .tot_len = bpf_htons(length), .ttl = 64, .protocol = protocol,
			      .saddr = from, .daddr = to };
	ip->check = fold(bpf_csum_diff(0, 0, (void *)ip, sizeof(*ip), 0));
}

/* The packet becomes an ICMP error about itself, to its sender. `what`: type, code and, in the upper half, the MTU.
 * 0, or DROP_WRITE. */
outline int become_icmp_error(struct __sk_buff *skb, const struct packet *p, __be32 from, __u32 what)
{
	struct icmp_error error = { .icmp = { .type = what >> 8 & 0xff, .code = what & 0xff,
					      .sequence = bpf_htons(what >> 16) } };
	struct iphdr ip;
	int is_tcp = p->protocol == PROTO_TCP, quoted = is_tcp ? QUOTED_TCP : QUOTED;
	if ((is_tcp ? bpf_skb_load_bytes(skb, L3_OFFSET, error.quote, QUOTED_TCP)
		    : bpf_skb_load_bytes(skb, L3_OFFSET, error.quote, QUOTED)) < 0)
		return DROP_WRITE;
	error.icmp.check = fold(bpf_csum_diff(0, 0, (void *)&error, sizeof(error), 0));
	answer_header(&ip, sizeof(ip) + sizeof(error.icmp) + quoted, PROTO_ICMP, from, p->source);
	if (bpf_skb_change_tail(skb, L3_OFFSET + quoted, 0) < 0 ||
	    bpf_skb_adjust_room(skb, sizeof(ip) + sizeof(error.icmp), BPF_ADJ_ROOM_MAC, 0) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET, &ip, sizeof(ip), BPF_F_INVALIDATE_HASH) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET + sizeof(ip), &error, sizeof(error.icmp), 0) < 0 ||
	    (is_tcp ? bpf_skb_store_bytes(skb, L3_OFFSET + QUOTED, error.quote, QUOTED_TCP, 0)
		    : bpf_skb_store_bytes(skb, L3_OFFSET + QUOTED, error.quote, QUOTED, 0)) < 0)
		return DROP_WRITE;
	return swap_macs(skb);
}

/* The packet becomes the reset of its connection (RFC 9293 3.10.7.1). 0, or DROP_WRITE. */
outline int become_reset(struct __sk_buff *skb, const struct packet *p)
{
	struct reset r = { .source = p->destination, .destination = p->source, .protocol = bpf_htons(PROTO_TCP),
			   .length = bpf_htons(sizeof(r.tcp)) };
	struct tcp_header got;
	struct iphdr ip;
	if (bpf_skb_load_bytes(skb, p->l4_offset, &got, sizeof(got)) < 0)
		return DROP_WRITE;
	r.tcp = (struct tcp_header){ .source = p->destination_port, .destination = p->source_port, .offset = 5 << 4 };
	if (p->tcp_flags & TCP_ACK) {
		r.tcp.sequence = got.acknowledged;
		r.tcp.flags = TCP_RST;
	} else {
		__u32 length = skb->len - p->l4_offset - (got.offset >> 4) * 4;
		length += !!(p->tcp_flags & TCP_SYN) + !!(p->tcp_flags & TCP_FIN);
		r.tcp.acknowledged = bpf_htonl(bpf_ntohl(got.sequence) + length);
		r.tcp.flags = TCP_RST | TCP_ACK;
	}
	r.tcp.check = fold(bpf_csum_diff(0, 0, (void *)&r, sizeof(r), 0));
	answer_header(&ip, sizeof(ip) + sizeof(r.tcp), PROTO_TCP, p->destination, p->source);
	if (bpf_skb_change_tail(skb, L3_OFFSET + sizeof(ip) + sizeof(r.tcp), 0) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET, &ip, sizeof(ip), BPF_F_INVALIDATE_HASH) < 0 ||
	    bpf_skb_store_bytes(skb, L3_OFFSET + sizeof(ip), &r.tcp, sizeof(r.tcp), 0) < 0)
		return DROP_WRITE;
	return swap_macs(skb);
}

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
	if (p->l4_offset != L3_OFFSET + sizeof(struct iphdr) || p->kind & (KIND_LATER_FRAGMENT | KIND_ICMP_ERROR))
		return DROP_WRITE;
	if (p->conntrack_flags & CT_LOOPBACK && nat_source(skb, p, p->destination, 0))
		return DROP_WRITE;
	return p->frontend_port ? nat_destination(skb, p, p->frontend, p->frontend_port) : 0;
}

/* Ends the way of a pod's packet: the pod gets an ICMP error from `from`, or from whom it spoke to if that is 0. */
apart int tell_pod(struct __sk_buff *skb, struct packet *p, int reason, __be32 from, __u32 what)
{
	if (!p)
		return TC_ACT_SHOT;
	drop(skb, p, reason);
	if (restore_for_answer(skb, p) || become_icmp_error(skb, p, from ? from : p->destination, what))
		return TC_ACT_SHOT;
	return back_to_pod(skb);
}

/* A service that leads nowhere: the pod is refused as by a closed port. */
apart int refuse(struct __sk_buff *skb, struct packet *p, int reason)
{
	if (!p)
		return TC_ACT_SHOT;
	if (p->protocol != PROTO_TCP)
		return tell_pod(skb, p, reason, 0, ICMP_UNREACHABLE << 8 | ICMP_PORT_UNREACHABLE);
	drop(skb, p, reason);
	if (p->tcp_flags & TCP_RST || restore_for_answer(skb, p) || become_reset(skb, p))
		return TC_ACT_SHOT;
	return back_to_pod(skb);
}

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

/* A packet that cannot go on: dropped, and its sender told if its time ran out. */
inlined int end_way(struct __sk_buff *skb, struct packet *p, int reason)
{
	if (reason != DROP_TTL)
		return drop(skb, p, reason);
	if (p->tunnel_source)
		return tell_sender(skb, p, reason, ICMP_TIME_EXCEEDED << 8);
	return tell_pod(skb, p, reason, CONFIG.node_address, ICMP_TIME_EXCEEDED << 8);
}
