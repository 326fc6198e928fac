import { rows } from "psqlisten2websocket-client";
import { useSyncExternalStore } from "react";

const orders = rows("http://localhost:8080/ws", { table: "orders", filter: "status=neq.done" });

export function Orders() {
  const { list, isLoaded } = useSyncExternalStore(orders.subscribe, orders.get);
  if (!isLoaded) return <p>Loading …</p>;
  return (
    <ul>
      {list.map(({ id, status }) => (
        <li key={id}>{`${id}: ${status}`}</li>
      ))}
    </ul>
  );
}
