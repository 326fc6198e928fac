#!/usr/bin/env bash
# Follows the feed with curl, as Server-Sent Events: one line of JSON for each change. A lost connection is opened
# again, and goes on after the last change.
#
#     bash examples/follow.sh http://localhost:8080 'table=orders&action=INSERT'
set -uo pipefail

feed=${1:-http://localhost:8080} query=${2:-}
cursor='' event=''
token=(${TOKEN:+--header "Authorization: Bearer $TOKEN"})

while true; do
  while IFS=': ' read -r field value; do
    case $field in
      id) cursor=$value ;;
      event) event=$value ;; # gap: changes may be missing; a change has none
      data) if [ -z "$event" ]; then printf '%s\n' "$value"; else printf '%s: %s\n' "$event" "$value" >&2; fi ;;
      '') event='' ;;
    esac
  done < <(curl --silent --show-error --fail --no-buffer ${token[@]+"${token[@]}"} \
    ${cursor:+--header "Last-Event-ID: $cursor"} "$feed/events?$query")
  sleep 1
done
