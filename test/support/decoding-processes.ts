import { childProcesses, commandLine } from './child-processes.js';

/** The decoding processes of an instance of the service, by default of this process. */
export function decodingProcesses(servicePid: number = process.pid): number[] {
  return childProcesses(servicePid).filter((pid) => commandLine(pid).includes('image-process.js'));
}
