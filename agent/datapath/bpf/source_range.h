/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who may open connections to an address that answers some sources only (loadBalancerSourceRanges). */
#pragma once
#include "packet.h"

#define SOURCE_RANGE_BITS 64	/* of an IPv4 source: service id and address */

apart int is_in_source_range(__u32 service_id, __be32 source)
{
	struct source_range_key key = { .prefix_length = SOURCE_RANGE_BITS, .service_id = service_id };
	__builtin_memcpy(key.address, &source, 4);
	return bpf_map_lookup_elem(&mesh_source_ranges, &key) != 0;
}

inlined int answers(const struct service_value *service, __be32 source)
{
	return !(service->flags & SERVICE_SOURCE_RANGES) || is_in_source_range(service->service_id, source);
}
