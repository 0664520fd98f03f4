import { launchFirefox } from "./firefox.ts";
import { testEngine } from "./flows.ts";

testEngine("Firefox", launchFirefox);
