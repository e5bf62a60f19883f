import { useEffect, useState } from "react";
import { Oxipush, type OxipushOptions, type Push, type Room } from "oxipush";

/** A client that lives as long as the component. `card` and `url` say which one it is: with others it is another client. */
export function useOxipush(url: string, card: string, options: OxipushOptions = {}): Oxipush | undefined {
  const [client, setClient] = useState<Oxipush>();
  useEffect(() => {
    const made = new Oxipush(url, { ...options, card });
    setClient(made);
    return () => made.close();
    // options are those of the first render
  }, [url, card]);
  return client;
}

/** The last pushes to a room, and who is there. */
export function useRoom(client: Oxipush | undefined, name: string, most = 50): { pushes: Push[]; cards: string[]; room: Room | undefined } {
  const [pushes, setPushes] = useState<Push[]>([]);
  const [cards, setCards] = useState<string[]>([]);
  const [room, setRoom] = useState<Room>();
  useEffect(() => {
    if (!client) return undefined;
    const joined = client.room(name);
    const show = () => setCards(joined.presence?.cards ?? []);
    const ends = [
      joined.on("push", (push) => setPushes((before) => [...before, push].slice(-most))),
      joined.on("subscribed", show),
      joined.on("presence", show),
    ];
    setRoom(joined);
    return () => {
      for (const end of ends) end();
      void joined.leave();
    };
  }, [client, name, most]);
  return { pushes, cards, room };
}

export function Chat({ card }: { card: string }) {
  const client = useOxipush("/ws", card);
  const { pushes, cards, room } = useRoom(client, "chat-1");
  return (
    <section>
      <p>{cards.join(", ")}</p>
      <ul>
        {pushes.map(({ id, from, content }) => (
          <li key={id}>
            {from}: {String(content)}
          </li>
        ))}
      </ul>
      <button onClick={() => void room?.push("hello", { echo: true })}>say hello</button>
    </section>
  );
}
