import { testEngine } from "./flows.ts";
import { launchWebKit } from "./webkit.ts";

testEngine("WebKitGTK", launchWebKit);
