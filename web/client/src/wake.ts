/** What a page or worker tells of the network and of being seen; Node tells nothing. */
export interface WakeListener {
  /** The network is back, or the page is seen again, or may be gone soon. */
  wake(): void;
  hide(): void;
}

/** Listens until the function that it gives is called. */
export function watchPage({ wake, hide }: WakeListener): () => void {
  const page = globalThis.document as Document | undefined;
  const seen = () => (page?.visibilityState === "hidden" ? hide() : wake());
  const listeners: [EventTarget | undefined, string, () => void][] = [
    [globalThis, "online", wake],
    [globalThis, "offline", wake],
    [globalThis, "pageshow", wake],
    [globalThis, "pagehide", hide],
    [page, "visibilitychange", seen],
  ];
  for (const [target, name, listener] of listeners) target?.addEventListener?.(name, listener);
  return () => {
    for (const [target, name, listener] of listeners) target?.removeEventListener?.(name, listener);
  };
}
