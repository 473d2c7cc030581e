"""Published cells by name.

Sources: DARTS_V1, DARTS_V2, NASNet-A and AmoebaNet-A as in DARTS's release (quark0/darts); all others as in
NAT's releases (guoyongcs/NAT and NATv2): ENAS, NAONet, cells that stand for VGG, residual and inverted
residual blocks, two random ones, and what NAT and NAT++ (here NATv2) made of them. NAT spec, section 10.
"""

from functools import cache

from networks.cells import Genotype, parse_cell
from networks.errors import UserError, nearest

# The normal cell, then the reduction cell.
PUBLISHED = {
    "DARTS_V1": (
        "2=sep3(1)+sep3(0); 3=S(0)+sep3(1); 4=S(0)+sep3(1); 5=sep3(0)+S(2); out=2,3,4,5",
        "2=max3(0)+max3(1); 3=S(2)+max3(0); 4=max3(0)+S(2); 5=S(2)+avg3(0); out=2,3,4,5",
    ),
    "DARTS_V2": (
        "2=sep3(0)+sep3(1); 3=sep3(0)+sep3(1); 4=sep3(1)+S(0); 5=S(0)+dil3(2); out=2,3,4,5",
        "2=max3(0)+max3(1); 3=S(2)+max3(1); 4=max3(0)+S(2); 5=S(2)+max3(1); out=2,3,4,5",
    ),
    "NASNet-A": (
        "2=sep5(1)+sep3(0); 3=sep5(0)+sep3(0); 4=avg3(1)+S(0); "
        "5=avg3(0)+avg3(0); 6=sep3(1)+S(1); out=2,3,4,5,6",
        "2=sep5(1)+sep7(0); 3=max3(1)+sep7(0); 4=avg3(1)+sep5(0); "
        "5=S(3)+avg3(2); 6=sep3(2)+max3(1); out=4,5,6",
    ),
    "AmoebaNet-A": (
        "2=avg3(0)+max3(1); 3=sep3(0)+sep5(2); 4=sep3(0)+avg3(3); 5=sep3(1)+S(1); 6=S(0)+avg3(1); out=4,5,6",
        "2=avg3(0)+sep3(1); 3=max3(0)+sep7(2); 4=sep7(0)+avg3(1); "
        "5=max3(0)+max3(1); 6=c7x1(0)+sep3(5); out=3,4,6",
    ),
    "ENAS": (
        "2=sep3(1)+S(1); 3=S(0)+sep5(1); 4=avg3(0)+sep3(1); "
        "5=sep3(0)+avg3(1); 6=avg3(0)+sep5(1); out=2,3,4,5,6",
        "2=sep5(0)+avg3(1); 3=sep3(1)+avg3(1); 4=avg3(1)+sep3(1); "
        "5=avg3(1)+sep5(4); 6=sep5(0)+sep3(5); out=2,3,6",
    ),
    "NAONet": (
        "2=c3(0)+avg5(1); 3=c3(1)+c1x3(2); 4=c1(0)+c3(1); 5=c1x3(0)+c3(4); 6=c3(0)+S(1); out=3,5,6",
        "2=c3(0)+avg2(1); 3=c1(0)+avg3(0); 4=max2(0)+c1x7(1); 5=avg3(0)+c1(2); 6=c3(0)+max3(1); out=3,4,5,6",
    ),
    "VGG": (
        "2=N(0)+S(1); 3=N(0)+c3(2); 4=N(0)+c3(3); 5=N(0)+S(4); out=5",
        "2=N(0)+S(1); 3=N(0)+c3(2); 4=N(0)+c3(3); 5=N(0)+max3(4); out=5",
    ),
    "ResBlock": (
        "2=N(0)+S(1); 3=N(0)+c3(2); 4=N(0)+c3(3); 5=S(2)+S(4); out=5",
        "2=N(0)+S(1); 3=N(0)+c3(2); 4=N(0)+c3(3); 5=S(2)+S(4); out=5",
    ),
    "MobileNetV2": (
        "2=N(0)+c1(1); 3=N(0)+sep3(2); 4=N(0)+c1(3); 5=S(1)+S(4); out=5",
        "2=N(0)+c1(1); 3=N(0)+sep3(2); 4=N(0)+c1(3); 5=N(0)+S(4); out=5",
    ),
    "NAT_DARTS": (
        "2=sep3(0)+sep3(1); 3=S(0)+sep3(1); 4=S(1)+S(0); 5=S(0)+dil3(2); out=2,3,4,5",
        "2=max3(0)+S(1); 3=S(2)+S(1); 4=max3(0)+N(2); 5=S(2)+max3(1); out=2,3,4,5",
    ),
    "NAT_ENAS": (
        "2=sep3(1)+S(1); 3=S(0)+sep5(1); 4=N(0)+sep3(1); 5=sep3(0)+avg3(1); 6=avg3(0)+sep5(1); out=2,3,4,5,6",
        "2=sep5(0)+avg3(1); 3=sep3(1)+avg3(1); 4=avg3(1)+sep3(1); "
        "5=N(1)+sep5(4); 6=sep5(0)+sep3(5); out=2,3,6",
    ),
    "NAT_NAONet": (
        "2=c3(0)+avg5(1); 3=N(1)+c1x3(2); 4=c1(0)+S(1); 5=c1x3(0)+c3(4); 6=c3(0)+S(1); out=3,5,6",
        "2=N(0)+avg3(1); 3=c1(0)+avg3(0); 4=S(0)+c1x7(1); 5=avg3(0)+S(2); 6=c3(0)+max3(1); out=3,4,5,6",
    ),
    "NAT_VGG": (
        "2=S(0)+S(1); 3=N(0)+c3(2); 4=N(0)+c3(3); 5=S(0)+S(4); out=5",
        "2=S(0)+S(1); 3=N(0)+c3(2); 4=N(0)+c3(3); 5=S(0)+S(4); out=5",
    ),
    "NAT_ResBlock": (
        "2=N(0)+S(1); 3=S(0)+c3(2); 4=S(0)+c3(3); 5=S(2)+S(4); out=5",
        "2=N(0)+S(1); 3=S(0)+c3(2); 4=S(0)+c3(3); 5=S(2)+S(4); out=5",
    ),
    "NAT_MobileNetV2": (
        "2=N(0)+c1(1); 3=N(0)+sep3(2); 4=S(0)+c1(3); 5=S(1)+S(4); out=5",
        "2=N(0)+S(1); 3=S(0)+sep3(2); 4=N(0)+c1(3); 5=N(0)+S(4); out=5",
    ),
    "NATv2_DARTS": (
        "2=sep3(0)+sep3(1); 3=N(0)+S(1); 4=dil3(1)+S(0); 5=S(0)+dil3(2); out=2,3,4,5",
        "2=avg3(0)+max3(1); 3=S(2)+S(1); 4=avg3(0)+S(2); 5=S(2)+max3(1); out=2,3,4,5",
    ),
    "NATv2_ENAS": (
        "2=sep3(1)+N(1); 3=S(0)+sep5(1); 4=avg3(0)+sep3(1); 5=sep3(0)+avg3(1); 6=S(0)+sep3(1); out=2,3,4,5,6",
        "2=sep3(0)+avg3(1); 3=sep3(1)+avg3(1); 4=avg3(1)+avg3(1); "
        "5=avg3(1)+sep5(4); 6=sep5(0)+max3(5); out=2,3,6",
    ),
    "NATv2_NAONet": (
        "2=c3(0)+avg5(1); 3=c3(1)+c1x3(2); 4=max3(0)+c3(1); 5=max3(0)+c3(4); 6=sep3(0)+S(1); out=3,5,6",
        "2=c3(0)+S(1); 3=avg3(0)+avg3(0); 4=max2(0)+c1x7(1); 5=S(0)+S(2); 6=max3(0)+max3(1); out=3,4,5,6",
    ),
    "NATv2_VGG": (
        "2=S(0)+S(1); 3=S(0)+c3(2); 4=N(0)+sep3(3); 5=S(0)+S(4); out=5",
        "2=S(0)+S(1); 3=S(0)+c3(2); 4=N(0)+sep3(3); 5=S(0)+max3(4); out=5",
    ),
    "NATv2_ResBlock": (
        "2=S(0)+S(1); 3=S(0)+c3(2); 4=S(0)+c3(3); 5=S(2)+S(4); out=5",
        "2=S(0)+S(1); 3=S(0)+c3(2); 4=S(0)+sep3(3); 5=S(2)+S(4); out=5",
    ),
    "NATv2_MobileNetV2": (
        "2=N(0)+c1(1); 3=N(0)+sep3(2); 4=S(0)+c1(3); 5=S(1)+S(4); out=5",
        "2=N(0)+S(1); 3=S(0)+sep3(2); 4=N(0)+c1(3); 5=N(0)+S(4); out=5",
    ),
    "R1": (
        "2=dil5(1)+dil5(1); 3=dil5(1)+dil5(2); 4=sep3(0)+sep3(3); 5=S(1)+max3(0); out=2,3,4,5",
        "2=sep5(0)+max3(0); 3=S(0)+sep3(0); 4=c3(0)+max3(2); 5=avg3(2)+c3(3); out=2,3,4,5",
    ),
    "NAT_R1": (
        "2=S(1)+dil5(1); 3=N(1)+dil5(2); 4=sep3(0)+sep3(3); 5=S(1)+max3(0); out=2,3,4,5",
        "2=sep5(0)+max3(0); 3=S(0)+sep3(0); 4=S(0)+S(2); 5=S(2)+c3(3); out=2,3,4,5",
    ),
    "R2": (
        "2=max3(1)+dil3(0); 3=sep5(2)+avg3(2); 4=dil5(0)+S(3); 5=sep3(1)+max3(3); out=2,3,4,5",
        "2=c3(1)+avg3(1); 3=max3(0)+dil5(0); 4=max3(0)+S(0); 5=dil5(4)+S(4); out=2,3,4,5",
    ),
    "NAT_R2": (
        "2=max3(1)+dil3(0); 3=N(2)+N(2); 4=dil5(0)+N(3); 5=sep3(1)+max3(3); out=2,3,4,5",
        "2=S(1)+avg3(1); 3=S(0)+dil5(0); 4=N(0)+S(0); 5=dil5(4)+S(4); out=2,3,4,5",
    ),
}


@cache
def published(name: str) -> Genotype:
    """The genotype of this name, or a `UserError` that tells the nearest."""
    if name not in PUBLISHED:
        raise UserError("genotype", name, ", ".join(PUBLISHED), nearest(name, PUBLISHED))
    normal, reduction = PUBLISHED[name]
    return Genotype(parse_cell(normal, f"{name}: normal"), parse_cell(reduction, f"{name}: reduction"))
