#!/usr/bin/env bash
# Serves one model on several nodes, with one tensor-parallel rank per node. Every node runs this same command.
#   serve_nodes.sh MODEL [OPTION...]     options for `labkit serve`
# LeaderWorkerSet sets the number of nodes (LWS_GROUP_SIZE), the number of this node (LWS_WORKER_INDEX) and the name of node 0
# (LWS_LEADER_ADDRESS). Node 0 runs the server; the others compute for it and end when it ends.
set -euo pipefail
model=${1:?serve_nodes.sh needs a model: serve_nodes.sh gptj-tiny}
shift
export WORLD_SIZE=$LWS_GROUP_SIZE RANK=$LWS_WORKER_INDEX MASTER_ADDR=$LWS_LEADER_ADDRESS MASTER_PORT=${MASTER_PORT:-29500}
export LOCAL_RANK=0 LOCAL_WORLD_SIZE=1

same=() # the options that all ranks need
for option in "$@"; do
    case $option in
    --device=* | --precision=* | --seed=* | --kv-cache-dtype=*) same+=("$option") ;;
    --device | --precision | --seed | --kv-cache-dtype)
        echo "serve_nodes.sh: write $option with an equals sign: $option=VALUE" >&2
        exit 2
        ;;
    esac
done
if [ "$RANK" = 0 ]; then
    exec labkit serve "$model" --tensor-parallel "$WORLD_SIZE" --address 0.0.0.0 "$@"
fi
exec labkit generate --model "$model" --tensor-parallel "$WORLD_SIZE" ${same[@]+"${same[@]}"} "not used: node 0 gets the requests"
