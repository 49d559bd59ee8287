/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters, drop, verdict and trace records. Never in a packet's way: what does not fit is counted as lost. */
#pragma once
#include "packet.h"
#include <linux/ipv6.h>

inlined void count(__u8 reason, __u8 direction, __u32 length)
{
	__u32 index = (direction & 1) << 8 | reason;
	struct metric_value *m = bpf_map_lookup_elem(&mesh_metrics, &index);
	if (m) {
		m->packets++;
		m->bytes += length;
	}
}

inlined void count_lost(__u32 why)
{
	__u64 *lost = bpf_map_lookup_elem(&mesh_lost, &why);
	if (lost)
		++*lost;
}

/* A bucket per CPU and type holds one second's worth. */
inlined int within_rate(__u32 type, __u64 now)
{
	struct token_bucket *b = bpf_map_lookup_elem(&mesh_event_rate, &type);
	if (!b)
		return 0;
	if (now - b->refilled_ns > 1000000000ULL) {
		b->tokens = CONFIG.events_per_s;
		b->refilled_ns = now;
	}
	if (!b->tokens)
		return 0;
	b->tokens--;
	return 1;
}

/* Not inlined: its prototype is what puts struct event into the object's BTF. */
outline int fill_addresses(CONTEXT *skb, const struct packet *p, struct event *e)
{
	__builtin_memset(e->source, 0, sizeof(e->source) * 3);
	if (p->kind & KIND_IPV6 && !is_set(p->source)) {	/* nobody has read it */
		load_bytes(skb, offsetof(struct ipv6hdr, saddr), e->source, 16);
		load_bytes(skb, offsetof(struct ipv6hdr, daddr), e->destination, 16);
		return 0;
	}
	__builtin_memcpy(e->source, is_set(p->origin) ? &p->origin : &p->source, sizeof(ip_address));
	__builtin_memcpy(e->destination, &p->destination, sizeof(ip_address));
	__builtin_memcpy(e->frontend, &p->frontend, sizeof(ip_address));
	return 0;
}

/* A record with what all of them have, or 0. The caller fills in the rest. */
inlined struct event *begin_event(__u8 type, __u8 reason)
{
	if (CONFIG.aggregation == AGGREGATE_OFF)
		return 0;
	if (!within_rate(type, clock_ns())) {
		count_lost(0);
		return 0;
	}
	struct event *e = bpf_ringbuf_reserve(&mesh_events, sizeof(*e), 0);
	if (!e) {
		count_lost(1);
		return 0;
	}
	e->timestamp_ns = bpf_ktime_get_ns();
	e->version = EVENT_VERSION;
	e->type = type;
	e->reason = reason;
	e->pad = 0;
	e->socket_cookie = 0;
	e->cgroup_id = 0;
	return e;
}

inlined void fill_facts(struct event *e, const struct packet *p, __u8 point)
{
	int is_icmp = p->protocol == PROTO_OF_ICMP;
	e->direction = p->direction;
	e->protocol = p->protocol;
	e->tcp_flags = p->tcp_flags;
	e->endpoint_id = p->endpoint_id;
	e->source_identity = p->source_identity;
	e->destination_identity = p->destination_identity;
	e->rule_id = p->rule_id;
	e->proxy_port = p->proxy_port;
	e->source_port = is_icmp ? p->policy_port : is_set(p->origin) ? p->origin_port : p->source_port;
	e->destination_port = is_icmp ? bpf_htons(p->icmp_code) : p->destination_port;
	e->frontend_port = p->frontend_port;
	e->match_and_point = p->match | point << 4;
	e->family = p->kind & KIND_IPV6 ? 2 : 1;
}

apart int emit(CONTEXT *skb, const struct packet *p, __u8 type, __u8 reason, __u8 point)
{
	if (!p)
		return 0;
	struct event *e = begin_event(type, reason);
	if (!e)
		return 0;
	fill_facts(e, p, point);
	e->length = length_of(skb);
	e->ifindex = device_of(skb);
	fill_addresses(skb, p, e);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

#define TRACE_MIDSTREAM 0xff	/* of a connection that began unseen: nobody knows who asks in it */

/* Does MEDIUM trace a packet of a side that was traced at tick `last` and sent these flags before? */
inlined int is_due(const struct packet *p, __u32 last, __u8 flags)
{
	return p->now - last >= REPORT_TICKS || p->tcp_flags & ~flags;
}

/* Says how a packet of a tracked connection is traced: `last` and `flags` are of its side, before they take this packet's. */
inlined void report(struct packet *p, __u32 *last, __u8 flags, int is_reply)
{
	p->trace = is_reply ? TRACE_REPLY : TRACE_ESTABLISHED;
	p->is_reported = is_due(p, *last, flags);
	if (p->is_reported)
		*last = p->now;
}

/* Where a packet goes. */
inlined void trace(CONTEXT *skb, const struct packet *p, __u8 point)
{
	if (!p->trace || CONFIG.aggregation == AGGREGATE_OFF)
		return;
	if (CONFIG.aggregation != AGGREGATE_MEDIUM || p->is_reported)
		emit(skb, p, EVENT_TRACE, p->trace == TRACE_MIDSTREAM ? TRACE_UNKNOWN : p->trace, point);
}

/* Where a packet came in: of which connection it is, nobody asked yet. */
inlined void trace_arrival(CONTEXT *skb, const struct packet *p, __u8 point)
{
	if (CONFIG.aggregation == AGGREGATE_NONE)
		emit(skb, p, EVENT_TRACE, TRACE_UNKNOWN, point);
}

apart int drop(CONTEXT *skb, const struct packet *p, int reason)
{
	if (!p)
		return TC_ACT_SHOT;
	count(reason, p->direction, length_of(skb));
	emit(skb, p, EVENT_DROP, reason, 0);
	return TC_ACT_SHOT;
}
