#!/bin/sh
# Makes and measures the four bases of the phase diagram, in bases/phase/ of the folder it is run in:
#     sh docs/results/phase/bases.sh
set -e
here=$(dirname "$0")
mkdir -p bases/phase

make_base() { # NAME, then overrides of base.yaml
    name=$1; shift
    superrl train "$here/base.yaml" --out "bases/phase/$name-run" "$@"
    mv "bases/phase/$name-run/checkpoints"/step-* "bases/phase/$name"
    superrl eval "bases/phase/$name" "tasks:chain?order=right&ops=3&n=240&split=train" \
        --k 8 --temperature 1.0 --out "bases/phase/$name.json"
}

make_base zero stages.0.steps=40 stages.0.optimizer.lr=1e-3 "data.train=tasks:chain?order=right&ops=1&n=200&seed=9"
make_base low stages.0.steps=1
make_base mid stages.0.steps=4
make_base high stages.0.steps=20 stages.0.optimizer.lr=2.5e-4
