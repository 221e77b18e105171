#!/usr/bin/env bash
# The demo's bundles from nothing: draw the catalogue, train three small networks, export two bundles. About three minutes.
#
#   examples/demo/train.sh OUT [SEED]            ONLY=similarity leaves the attribute network out
#
# OUT/bundles/category  similar = of one category, with an attribute network: what a shop would want
# OUT/bundles/brand     similar = of one brand: it learns the badge that one brand's photographs carry
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"
out=${1:?the folder to write}
seed=${2:-0}
network="--backbone export.training.networks.small_network:network --size 96x72 --seed $seed"

whymatch demo "$out/catalogue"
catalogue=$out/catalogue/catalogue.csv
whymatch train similarity --catalogue "$catalogue" --out "$out/category" $network --similar-by category \
  --embedding 64 --epochs 40 --learning-rate 3e-3
whymatch train similarity --catalogue "$catalogue" --out "$out/brand" $network --similar-by brand \
  --embedding 64 --epochs 5
attributes=()
if [ "${ONLY:-}" != similarity ]; then
  whymatch train attributes --catalogue "$catalogue" --out "$out/attributes" $network \
    --columns category,colour,pattern,sleeve,neckline --epochs 40 --learning-rate 3e-3
  attributes=(--attributes "$out/attributes/attributes.pt")
fi
whymatch export --similarity "$out/category/similarity.pt" "${attributes[@]}" --out "$out/bundles/category"
whymatch export --similarity "$out/brand/similarity.pt" --no-gradient --out "$out/bundles/brand"  # both bundles stay under 2 MB
