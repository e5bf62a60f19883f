// for <script src="/oxipush.js">: the class is the global `Oxipush`, and carries the class of its errors
import { Oxipush } from "./client.js";
import { OxipushError } from "./errors.js";

Object.assign(globalThis, { Oxipush: Object.assign(Oxipush, { OxipushError }) });
