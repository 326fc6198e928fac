import { rows } from "psqlisten2websocket-client";
import { h, onUnmounted, shallowRef } from "vue";

export const Orders = {
  setup() {
    const orders = rows("http://localhost:8080/ws", { table: "orders", filter: "status=neq.done" });
    const shown = shallowRef();
    orders.subscribe((value) => (shown.value = value));
    onUnmounted(orders.close);
    return () => {
      if (!shown.value.isLoaded) return h("p", "Loading …");
      return h("ul", shown.value.list.map(({ id, status }) => h("li", { key: id }, `${id}: ${status}`)));
    };
  },
};
