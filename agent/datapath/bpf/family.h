/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which family the packets of an object have. An object for IPv6 defines IPV6_PACKETS before anything else: the code that
 * both families share then has wider addresses, other numbers of ICMP, and connections, fragments and services in maps of
 * their own. */
#pragma once
#include "abi.h"

#define inlined static __always_inline

#ifdef IPV6_PACKETS
typedef struct ipv6_address ip_address;
/* How a function that is not inlined takes an address: in a register, or where one does not fit, by reference. */
typedef const ip_address *address_argument;
#define as_argument(address) (&(address))
#define value_of(argument) (*(argument))
#define NO_ARGUMENT(argument) (!(argument))
#define conntrack_key conntrack_key6
#define conntrack_value conntrack_value6
#define fragment_key fragment_key6
#define mesh_ct_tcp mesh_ct6_tcp
#define mesh_ct_other mesh_ct6_other
#define mesh_ct_opening mesh_ct6_opening
#define mesh_fragments mesh_fragments6
#define service_key service_key6
#define backend_value backend_value6
#define affinity_key affinity_key6
#define mesh_services mesh_services6
#define mesh_backends mesh_backends6
#define mesh_members mesh_members6
#define mesh_source_ranges mesh_ranges6
#define mesh_affinity mesh_affinity6
#define IP_HEADER_BYTES 40
#define inlined_if_small outline	/* addresses are large, and a program has 512 bytes of stack */
#define inlined_if_large inlined
#define IPCACHE_FAMILY 2
#define PROTO_OF_ICMP PROTO_ICMPV6
#define ID_OF_WORLD ID_WORLD_IPV6
#define HAS_PROXY 0	/* a port that a rule leads to a proxy is closed */

inlined int is_same(ip_address a, ip_address b)
{
	return !((a.words[0] ^ b.words[0]) | (a.words[1] ^ b.words[1]) | (a.words[2] ^ b.words[2]) | (a.words[3] ^ b.words[3]));
}

inlined int is_set(ip_address a)
{
	return (a.words[0] | a.words[1] | a.words[2] | a.words[3]) != 0;
}

/* What a translated packet's entry says of the other end (`nat_address`). */
#define translation_of(v) ((address_argument)(v)->nat_address)

enum icmp_type { ICMP_UNREACHABLE = 1, ICMP_TOO_BIG = 2, ICMP_TIME_EXCEEDED = 3, ICMP_PARAMETER = 4, ICMP_ECHO = 128,
		 ICMP_ECHO_REPLY = 129 };

/* Echo. */
inlined int is_query(__u8 type)
{
	return type == ICMP_ECHO;
}

inlined int is_reply(__u8 type)
{
	return type == ICMP_ECHO_REPLY;
}

inlined __u16 query_of(__u8 type)
{
	return is_reply(type) ? ICMP_ECHO : type;
}

inlined int is_error(__u8 type)
{
	return type >= ICMP_UNREACHABLE && type <= ICMP_PARAMETER;
}
#else
typedef __be32 ip_address;
typedef ip_address address_argument;
#define as_argument(address) (address)
#define value_of(argument) (argument)
#define NO_ARGUMENT(argument) 0
#define IP_HEADER_BYTES 20
#define inlined_if_small inlined
#define inlined_if_large outline
#define IPCACHE_FAMILY 1
#define PROTO_OF_ICMP PROTO_ICMP
#define ID_OF_WORLD ID_WORLD
#define HAS_PROXY 1

inlined int is_same(ip_address a, ip_address b)
{
	return a == b;
}

inlined int is_set(ip_address a)
{
	return a != 0;
}

inlined __be32 translation_of(const struct conntrack_value *v)
{
	__be32 address;
	__builtin_memcpy(&address, v->nat_address, 4);
	return address;
}

enum icmp_type { ICMP_ECHO_REPLY = 0, ICMP_UNREACHABLE = 3, ICMP_ECHO = 8, ICMP_TIME_EXCEEDED = 11, ICMP_PARAMETER = 12 };

/* Echo (reply 0), timestamp, information and address mask (reply one more) of ICMP. */
inlined int is_query(__u8 type)
{
	return type == ICMP_ECHO || type == 13 || type == 15 || type == 17;
}

inlined int is_reply(__u8 type)
{
	return type == ICMP_ECHO_REPLY || (type >= 14 && type <= 18 && !(type & 1));
}

inlined __u16 query_of(__u8 type)
{
	return type == ICMP_ECHO_REPLY ? ICMP_ECHO : type - is_reply(type);
}

inlined int is_error(__u8 type)
{
	return type == ICMP_UNREACHABLE || type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER;
}
#endif
