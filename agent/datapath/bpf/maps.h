/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The pinned maps. Names and sizes are mirrored by spec.py. */
#pragma once
#include "family.h"
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define MAP(name, map_type, k, v, n, map_flags_) struct { \
	__uint(type, map_type); __type(key, k); __type(value, v); __uint(max_entries, n); \
	__uint(map_flags, map_flags_); __uint(pinning, LIBBPF_PIN_BY_NAME); } name SEC(".maps")

#define SPARSE BPF_F_NO_PREALLOC
struct address16 { __u8 bytes[16]; };
#ifdef IPV6_PACKETS
MAP(mesh_services6, BPF_MAP_TYPE_HASH, struct service_key6, struct service_value, 1 << 17, SPARSE);
MAP(mesh_backends6, BPF_MAP_TYPE_HASH, __u32, struct backend_value6, 1 << 16, SPARSE);
MAP(mesh_members6, BPF_MAP_TYPE_HASH, struct member_key, __u32, 1 << 17, SPARSE);
MAP(mesh_ranges6, BPF_MAP_TYPE_LPM_TRIE, struct source_range_key, __u32, 1 << 16, SPARSE);
MAP(mesh_affinity6, BPF_MAP_TYPE_LRU_HASH, struct affinity_key6, struct affinity_value, 1 << 15, 0);
#else
MAP(mesh_services, BPF_MAP_TYPE_HASH, struct service_key, struct service_value, 1 << 19, SPARSE);
MAP(mesh_backends, BPF_MAP_TYPE_HASH, __u32, struct backend_value, 1 << 18, SPARSE);
MAP(mesh_members, BPF_MAP_TYPE_HASH, struct member_key, __u32, 1 << 19, SPARSE);
MAP(mesh_source_ranges, BPF_MAP_TYPE_LPM_TRIE, struct source_range_key, __u32, 1 << 16, SPARSE);
MAP(mesh_affinity, BPF_MAP_TYPE_LRU_HASH, struct affinity_key, struct affinity_value, 1 << 16, 0);
#endif
MAP(mesh_ipcache, BPF_MAP_TYPE_LPM_TRIE, struct ipcache_key, struct ipcache_value, 1 << 20, SPARSE);
MAP(mesh_policy, BPF_MAP_TYPE_LPM_TRIE, struct policy_key, struct policy_value, 1 << 18, SPARSE);
MAP(mesh_ep_address, BPF_MAP_TYPE_HASH, struct address16, struct endpoint_value, 1 << 12, SPARSE);
MAP(mesh_ep_ifindex, BPF_MAP_TYPE_HASH, __u32, struct endpoint_value, 1 << 12, SPARSE);
/* 0: the node itself, while host policies select it; all zero while none does. */
MAP(mesh_node, BPF_MAP_TYPE_ARRAY, __u32, struct endpoint_value, 1, 0);
/* mesh_ct*_opening: flows that are not established; a flood of them evicts only each other. */
#ifdef IPV6_PACKETS
MAP(mesh_ct6_tcp, BPF_MAP_TYPE_LRU_HASH, struct conntrack_key6, struct conntrack_value6, 1 << 17, 0);
MAP(mesh_ct6_other, BPF_MAP_TYPE_LRU_HASH, struct conntrack_key6, struct conntrack_value6, 1 << 16, 0);
MAP(mesh_ct6_opening, BPF_MAP_TYPE_LRU_HASH, struct conntrack_key6, struct conntrack_value6, 1 << 15, 0);
MAP(mesh_fragments6, BPF_MAP_TYPE_LRU_HASH, struct fragment_key6, struct fragment_value, 1 << 13, 0);
#else
MAP(mesh_ct_tcp, BPF_MAP_TYPE_LRU_HASH, struct conntrack_key, struct conntrack_value, 1 << 18, 0);
MAP(mesh_ct_other, BPF_MAP_TYPE_LRU_HASH, struct conntrack_key, struct conntrack_value, 1 << 17, 0);
MAP(mesh_ct_opening, BPF_MAP_TYPE_LRU_HASH, struct conntrack_key, struct conntrack_value, 1 << 16, 0);
MAP(mesh_fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment_key, struct fragment_value, 1 << 13, 0);
#endif
/* sockets of the node that speak to a backend in place of a frontend */
MAP(mesh_sockets, BPF_MAP_TYPE_LRU_HASH, struct socket_key, struct socket_value, 1 << 16, 0);
/* connections of outsiders that go on under an address of the node */
MAP(mesh_nat, BPF_MAP_TYPE_LRU_HASH, struct nat_key, struct nat_value, 1 << 17, 0);
MAP(mesh_probes, BPF_MAP_TYPE_LRU_HASH, struct probe_key, struct probe_value, 1 << 13, 0);
/* index: direction << 8 | reason */
MAP(mesh_metrics, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct metric_value, 512, 0);
/* 0: over the rate, 1: ring buffer full */
MAP(mesh_lost, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, 2, 0);
/* 0: when the agent last said that it keeps the maps up to date, in ns of CLOCK_MONOTONIC */
MAP(mesh_heartbeat, BPF_MAP_TYPE_HASH, __u32, __u64, 1, SPARSE);
/* Versions of the records of the maps beside it, at the places spec.py gives them; written by user space. */
MAP(mesh_abi, BPF_MAP_TYPE_ARRAY, __u32, __u32, 64, 0);

/* Programs that go on with a packet of IPv6, by program_place; without them it is as if there were no such object. */
enum program_place { FROM_CONTAINER6 = 0, TO_CONTAINER6 = 1, FROM_OVERLAY6 = 2 };
MAP(mesh_calls, BPF_MAP_TYPE_PROG_ARRAY, __u32, __u32, 4, 0);

struct token_bucket { __u64 tokens, refilled_ns; };
MAP(mesh_event_rate, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct token_bucket, 8, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} mesh_events SEC(".maps");

const volatile struct config CONFIG = {};
