// Draws a component again only where one of its properties is another one.
import { Component, h, type ComponentType, type FunctionComponent } from "preact";

export function memo<P extends object>(inner: FunctionComponent<P>): ComponentType<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(next: Readonly<P>): boolean {
      const before = this.props as Record<string, unknown>;
      const after = next as Record<string, unknown>;
      return Object.keys(after).some((name) => name !== "select" && after[name] !== before[name]);
    }

    override render(props: P) {
      return h(inner, props);
    }
  };
}
