"""Partitions of a cluster: which there are, which one a stream is in, and in which slot that lies. Pure.

A partition is one hash slot, named by its tag. A stream's id carries the tag of its partition: `TAG-<32 hex>`. The tags
are a fixed table whose slots are evenly spaced, in bit-reversed order: however many servers share the slots, each has
the same number of partitions, or one more. The table of 64 partitions is the beginning of that of 1,024, so their
number can grow.
"""

from __future__ import annotations

import binascii
from typing import Final

SLOTS: Final = 16_384
"""Of every Redis or Valkey Cluster (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""

MOST: Final = 1_024
GLOBAL: Final = "g"
"""The tag of what is one for all and small: workers, health, secrets."""

ONE_SERVER: Final = ""
"""The tag of the only partition of one server: its names have none."""

_TAG: Final = 3
_ID: Final = _TAG + 1 + 32
_TABLE: Final = (
    "1bzfjl17p3565nw7l1h85b3kdljng413031v5j77hqqsu7ys04s2650aygiopt6c0h4mt6o200322u0e9od74x66zp4i46krnbd1cjn7n1rh"
    "bgq5ogbvs4nD3el9n230fd8p7iahho7xchymo4m05coag8iqc1x49ncdr4ld23em2k2fo8m1c58asv6jbabt53t712he67d896a3y71js3h5"
    "57475rhavjc0d1iwu71n33luif5cmk40w6210ip2k60xr2z4akm4C944766q0m02ove2jo94j3j52dbox5gnfrw1zafcu1kc74bh5l7ahqkn"
    "38o9313medeskec4dmc9q41goin8axgqt0yb6bkice67ai6o2nf8e8gu48025n37luh8qsu7dhnnc017435r5js7h5hx97y79of3d813t312"
    "a2jk944m06ov04726qekm0C94xr6z44ip6k600w2218legmk7mehlk78oh9a3ah9j634bl5lbcu5kcbrw5zafox1gnn3j12dcu4a3z6nfafp"
    "27a8x72bk8i5cqt4ybkinab0g9q01goec0dmd5m3ys1j73hq53071vherjg492ef3k1nw3l157p7565bzbjl0i42kr0x62zp4e9kd740362u"
    "0mt2o281fg0h4aycio44s6653xc9753iadaw70fh1h7elhdbfvs93ufgq1ogj7n5rhjbd5cj2jbebtg588466foany63ei2kgdr0ldg1x09n"
    "kagaj9k4m45c02120wemkof54z46xr4k66ip06q2478jcgkmi94c2j4ov6m01d8ne611233t5h57js5y7jx9lc0fhn15r3745lu7n3qu7b1i"
    "21ge9q2dm8o36ybaqtcb0iino6o07aoce0bkc3zau4cfp4nf3gn9l032dl3j7kchjm7zaq4owkn1ahn5l14bbes5meb0y58oaio6ay46564s"
    "0o22mte0hvt6id76e942u6030kr2i40zp2x655677phct7bzd3kn851l13nw51v730hg4blj1ysf5m1hq3j7cj9iag65ci4m2ldedr29n820"
    "cny4fok2k43egbt0jbgsv86p7rhh7n7cjhbdft59133og9d9b8p50fbmz5elfpu1xcfaw1ia4zp6x64kr6i402u2038ng2e9a0hrt64o26mt"
    "06524seio2ay5hq7j75ysb5m9mdflj11v3305l17nwqusj85djl3bz15637pcsva58cbt4jbo2k03egny0fo69na1x6ldadr25c8z5gj98k7"
    "baw5iabpu5xcfmz1elf8p10f7oghnibt5q0k3cj9h43rh9y60ov2m083dg2j57Rckm46q6470k62ip0z42xramkkf542160w90gf1i1lu3n3"
    "55r774hc0bhn1y7nx91h53js51273t5d8je6gfp0nfg3z82tkce4bkk6o47agb0min2yb8646dmiec61ga9qf0y18ofes1mej5l54bskn5ah"
    "3za9573kcdcu72dh3j7gnqmh04bo5l0ahvkn48oc0y4mecesm3j22d8l02gnarw6zaacu6kc1bknce17an6o5nfbfp4oEb3z9o33dmd9q31g"
    "hinbb0hxl7yb27405rghnmc0c1ipu76n34lu23t012oe60d8kx94y76js4h5fkm9jc34716q7m05ovb2jh94nf5dmk30w1217ip5k67xr5z4"
    "4elcmz40fc8p0iagaw0xcgpuibd6cji7n6rh8d92og813gt553ej2k5fobny96pfsv1jbfbth4m75chagbj992039nddr3ldcljig463041v"
    "2j70hqg5m0ys6bzajl67p4562nw0l1o85e3k70352u7e9hd73x61zp3i41kr74s5657ayybgwt6d0h3mt1o2avsct5agq6og8y62rh8h42cj"
    "4xccpu4iacaw00fg8p0elgmzhmj7ldq3h79n9k7fj99z535c5jbbbtyz8bsv1fofny13en2kk85a3k6nw4l127p0562bzejlc5m4ys6j74hq"
    "23001vglj8md7mt5o2st6h9p3aydio34s1657i45kr7x65zp3e99ng30312uecu2kc8572zaaox6gni3j62d0meges08og0y4ahrkn44bk5l"
    "9643yblinfb0h0i71ghec7dm92tf3z1nfffp57aj6o5bkjce2js0h5ox90y7ke64d863t4122n30lug1i80gchnic067445r3xr1z43ip1k6"
    "70w521jf5hdsf2j93d3m01ov74756qbkm47R9m13fol2k33ehkl7jbhznb589iqnag15cn4m5ldbdr59nb1xe8p20f8n22elapu6xcaaw6ia"
    "0rho7n0cjobdat5cvs4ogcgqnd71e932u1037kr5i47zp5x6fio1ay36514s7o25mtb0hqt621v030og4elj6ysa5m6hq4j725607pgjl0bz"
    "c3ki856l14nwh6o77ahce7bk902fu49e83nf51gb9q5dmjec1ybfqt9axninpkn6ahi5l64bees2me83128o4gncox42dk3j0kcgcu0zagrw"
    "76q5475C9hbun94d2j3ov1m072150wbmkhf53z41xr3k61ipkc0ahn65r4742lu0n3vu7e1i6d8ie661243t2h50js2y786ayi8jin5ybbqt"
    "1dmnec11gf9qhoh7nfq1jbu49i53bk9x737a4zacrw4kcccu02do3j0gngoxa0y68oaes6mem5l24b8j62ah7k65ip7z45xrfmk9le32110w"
    "7ov5m0j94q0z1C9dkm36q1476y7ix96h54js21203t2d88ofru7a1i6lu4n325r074oc0ehn19nf1x1ldfdr55cj4mya1jag946f58dbt3jb"
    "h2k73ehga7fo0ogggq83ugvs4cjkbd4rhk7neaw2ia8752xcamz6ela8p60ff0h91f3o21mt76554sbio5ay3zp1x63kr1i472u503jd75e9"
    "2l10nwg3k82ecjl4bz65647p2hq0j72yse5mkg4alj61v430"
)
_TAGS: Final = tuple(_TABLE[at : at + _TAG] for at in range(0, len(_TABLE), _TAG))
_KNOWN: Final = frozenset(_TAGS)


def tags(number: int) -> tuple[str, ...]:
    """Of so many partitions. Raises ValueError for what is no power of two from 1 to `MOST`."""
    if number < 1 or number > MOST or number & (number - 1):
        raise ValueError(f"expected a power of two from 1 to {MOST}")
    return _TAGS[:number]


def tag_of(stream_id: str) -> str:
    """The partition of a stream; `ONE_SERVER` for an id that names none."""
    is_named = len(stream_id) == _ID and stream_id[_TAG] == "-" and stream_id[:_TAG] in _KNOWN
    return stream_id[:_TAG] if is_named else ONE_SERVER


def tag_in(name: str) -> str:
    """What stands between the first braces of a key's or channel's name; "" where nothing does."""
    return name.partition("{")[2].partition("}")[0]


def slot(tag: str) -> int:
    """The hash slot of all names with that tag: CRC16 (XMODEM) of it, modulo 16,384."""
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS
