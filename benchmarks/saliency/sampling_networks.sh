#!/usr/bin/env bash
# Two more networks for `python -m benchmarks.saliency.sampling`, trained from nothing on the photographs of `make fashion`: a
# small vision transformer and a ResNet-18. About thirteen minutes of one core.
#
#   benchmarks/saliency/sampling_networks.sh CATALOGUE_FOLDER OUT
#
# They are to be trained networks, not good ones: few epochs, and one thread, so that it runs beside other work.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
catalogue=${1:?the folder that holds products.csv}/products.csv
out=${2:?the folder to write}
[ -e "$catalogue" ] || { echo "there is no $catalogue: name the folder of products.csv" >&2; exit 2; }

train() { # NAME, and how to train it
  [ -e "$out/$1/similarity.pt" ] || whymatch train similarity --catalogue "$catalogue" --out "$out/$1" --size 112x112 \
    --embedding 128 --similar-by article_type,base_colour --threads 1 "${@:2}"
}

train transformer --backbone benchmarks.support.networks:small_transformer --epochs 20 --learning-rate 5e-4
[ -e "$out/transformer/bundle/bundle.json" ] || whymatch export --similarity "$out/transformer/similarity.pt" \
  --factory benchmarks.support.networks:small_transformer --out "$out/transformer/bundle"

# batches of 64 and a trunk at the head's rate gave, in 5 epochs, less than the untrained network has (map 0.12 of 0.19)
train resnet18 --backbone resnet18 --epochs 6 --batch 32 --learning-rate 1e-3 --trunk-rate 0.1
[ -e "$out/resnet18/bundle/bundle.json" ] || whymatch export --similarity "$out/resnet18/similarity.pt" \
  --out "$out/resnet18/bundle"
