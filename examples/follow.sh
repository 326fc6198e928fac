#!/usr/bin/env bash
# Follows the feed with curl, as Server-Sent Events: one line of JSON for each change. A lost connection is opened
# again, and goes on after the last change. A request that the server refuses ends it, with the server's reason.
#
#     bash examples/follow.sh http://localhost:8080 'table=orders&action=INSERT'
set -uo pipefail

feed=${1:-http://localhost:8080} query=${2:-}
cursor='' event=''
token=(${TOKEN:+--header "Authorization: Bearer $TOKEN"})

while true; do
  status='' message=''
  while IFS=': ' read -r field value || [ "$field" = '{"error"' ]; do
    case $field in
      HTTP/*) status=$value ;;
      '{"error"') message=${value#*'"message": "'} message=${message%'"}}'*} ;; # the one line of a refusal
      id) cursor=$value ;;
      event) event=$value ;; # gap: changes may be missing; a change has none
      data) if [ -z "$event" ]; then printf '%s\n' "$value"; else printf '%s: %s\n' "$event" "$value" >&2; fi ;;
      '') event='' ;;
    esac
  done < <(curl --silent --show-error --include --no-buffer ${token[@]+"${token[@]}"} \
    ${cursor:+--header "Last-Event-ID: $cursor"} "$feed/events?$query")
  case $status in
    429*) ;; # too many clients: later there may be room
    4*)
      printf '%s\n' "$feed/events?$query: ${message:-$status}" >&2
      exit 1
      ;;
  esac
  sleep 1
done
