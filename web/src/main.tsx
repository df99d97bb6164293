// The dashboard of haul.
import { render } from "preact";
import { Shell } from "./pages/shell";
import "./css/base.css";
import "./css/shell.css";
import "./css/parts.css";
import "./css/tables.css";
import "./css/pages.css";

render(<Shell />, document.getElementById("app")!);
